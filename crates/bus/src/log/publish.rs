//! Publishes a page of events: in one atomic batch where the stream takes them, one by one where it does
//! not or where nobody knows what came of the batch.
//!
//! A server that syncs each write to its disk syncs a batch once.
//! <https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-50.md>

use anyhow::{Context, bail, ensure};
use async_nats::{HeaderMap, header, jetstream::message::PublishMessage};
use futures::future::join_all;
use serde::Deserialize;
use time::OffsetDateTime;
use tokio::time::timeout;
use tracing::{debug, warn};
use uuid::Uuid;

use super::{page::Outgoing, ranges::Stored};
use crate::{
    connection::{Bus, REQUEST_TIMEOUT},
    envelope,
};

const BATCH_ID: &str = "Nats-Batch-Id";
const BATCH_SEQUENCE: &str = "Nats-Batch-Sequence";
const BATCH_COMMIT: &str = "Nats-Batch-Commit";

/// How a stream is published to.
#[derive(Debug, Clone)]
pub(crate) struct Publisher {
    pub(crate) bus: Bus,
    pub(crate) stream: &'static str,
    /// Its creation time, as last verified.
    pub(crate) created: OffsetDateTime,
    /// Whether it takes atomic batches.
    pub(crate) atomic: bool,
}

/// What came of a page.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Published {
    pub(crate) stored: Stored,
    /// The lowest sequence that the server called a duplicate's: where something was stored before, and
    /// may have been removed since.
    pub(crate) first_duplicate: Option<i64>,
}

/// The server's answer to the last message of a batch.
#[derive(Debug, Deserialize)]
struct BatchAnswer {
    #[serde(default)]
    seq: i64,
    #[serde(default, rename = "batch")]
    batch_id: String,
    #[serde(default)]
    count: i64,
    error: Option<BatchError>,
}

#[derive(Debug, Deserialize)]
struct BatchError {
    #[serde(default)]
    description: String,
}

impl Publisher {
    /// Publishes events, of which there is at least one, and waits for the stream to have stored each.
    ///
    /// `again` is the number of the range that is published again. It makes another `Nats-Msg-Id`, as the
    /// stream's duplicate window may remember the first one of an event that it has lost.
    ///
    /// # Errors
    /// When not all were confirmed. Some may be stored all the same.
    pub(crate) async fn publish(
        &mut self,
        events: &[Outgoing],
        again: Option<i64>,
    ) -> anyhow::Result<Published> {
        if self.atomic && events.len() > 1 {
            match self.batch(events, again).await {
                Ok(published) => return Ok(published),
                // Duplicates among them, a server that is older than the one that made the stream, or
                // no answer: one by one, each by its id, tells what is there.
                Err(error) => {
                    debug!(stream = self.stream, error = format!("{error:#}"), "no atomic batch");
                }
            }
        }
        self.one_by_one(events, again).await
    }

    async fn batch(&self, events: &[Outgoing], again: Option<i64>) -> anyhow::Result<Published> {
        let batch_id = Uuid::new_v4().simple().to_string();
        let (last, others) = events.split_last().context("a batch of no events")?;
        let client = &self.bus.client;
        let headers = |event: &Outgoing, sequence: usize| {
            let mut headers = HeaderMap::new();
            headers.insert("content-type", envelope::CONTENT_TYPE);
            headers.insert(header::NATS_MESSAGE_ID, message_id(event, again));
            headers.insert(header::NATS_EXPECTED_STREAM, self.stream);
            headers.insert(BATCH_ID, batch_id.clone());
            headers.insert(BATCH_SEQUENCE, sequence.to_string());
            headers
        };
        let sent = async {
            for (at, event) in others.iter().enumerate() {
                let payload = event.envelope.clone().into();
                client
                    .publish_with_headers(event.subject.clone(), headers(event, at + 1), payload)
                    .await?;
            }
            let mut headers = headers(last, events.len());
            headers.insert(BATCH_COMMIT, "1");
            let payload = last.envelope.clone().into();
            let answer =
                client.request_with_headers(last.subject.clone(), headers, payload).await?;
            anyhow::Ok(answer.payload)
        };
        let answer = timeout(REQUEST_TIMEOUT, sent).await.context("no answer in time")??;
        let answer: BatchAnswer = serde_json::from_slice(&answer)?;
        if let Some(error) = answer.error {
            bail!("the server refuses: {}", error.description);
        }
        let count = i64::try_from(events.len())?;
        ensure!(
            answer.batch_id == batch_id && answer.count == count,
            "the server did not take it for one"
        );
        let stored = Stored {
            created: self.created,
            first_sequence: answer.seq - count + 1,
            last_sequence: answer.seq,
            last_id: last.id,
            events: count,
        };
        Ok(Published { stored, first_duplicate: None })
    }

    async fn one_by_one(
        &self,
        events: &[Outgoing],
        again: Option<i64>,
    ) -> anyhow::Result<Published> {
        let mut sent = Vec::with_capacity(events.len());
        for event in events {
            let message = PublishMessage::build()
                .header("content-type", envelope::CONTENT_TYPE)
                .message_id(message_id(event, again))
                .expected_stream(self.stream)
                .payload(event.envelope.clone().into());
            let sending = self.bus.jetstream.send_publish(event.subject.clone(), message);
            let ack = timeout(REQUEST_TIMEOUT, sending).await.context("NATS takes nothing")??;
            sent.push(async move { (event.id, ack.await) });
        }
        let mut published: Option<Published> = None;
        let mut failed = None;
        for (id, answer) in join_all(sent).await {
            let ack = match answer {
                Ok(ack) => ack,
                Err(error) => {
                    failed = failed.or(Some(error));
                    continue;
                }
            };
            let sequence = i64::try_from(ack.sequence)?;
            let one = Stored {
                created: self.created,
                first_sequence: sequence,
                last_sequence: sequence,
                last_id: id,
                events: 1,
            };
            let duplicate = ack.duplicate.then_some(sequence);
            published = Some(match published {
                None => Published { stored: one, first_duplicate: duplicate },
                Some(before) => Published {
                    stored: before.stored.and(&one),
                    first_duplicate: min(before.first_duplicate, duplicate),
                },
            });
        }
        if let Some(error) = failed {
            warn!(stream = self.stream, %error, "the stream did not confirm every event");
            return Err(
                anyhow::Error::new(error).context("an event was not confirmed by its stream")
            );
        }
        published.context("a page of no events")
    }
}

fn min(a: Option<i64>, b: Option<i64>) -> Option<i64> {
    a.into_iter().chain(b).min()
}

fn message_id(event: &Outgoing, again: Option<i64>) -> String {
    match again {
        None => event.id.to_string(),
        Some(range) => format!("{}:{range}", event.id),
    }
}
