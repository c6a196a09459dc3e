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
use tracing::debug;
use uuid::Uuid;

use super::{page::Outgoing, ranges::Stored};
use crate::{
    connection::{Bus, REQUEST_TIMEOUT},
    envelope,
    topology::{self, PUBLICATION},
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

/// What the server has said of one message.
#[derive(Debug)]
struct Acked {
    message_id: String,
    sequence: i64,
    duplicate: bool,
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
        &self,
        events: &[Outgoing],
        again: Option<i64>,
    ) -> anyhow::Result<Stored> {
        if self.atomic && events.len() > 1 {
            match self.batch(events, again).await {
                Ok(stored) => return Ok(stored),
                // Duplicates among them, a server that is older than the one that made the stream, or
                // no answer: one by one, each by its id, tells what is there.
                Err(error) => {
                    debug!(stream = self.stream, error = format!("{error:#}"), "no atomic batch");
                }
            }
        }
        if let Some(stored) = self.one_by_one(events, again).await? {
            return Ok(stored);
        }
        // The server takes some for duplicates of what it has lost: again, under ids that are new to it.
        let now = i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos())?;
        let stored = self.one_by_one(events, Some(now)).await?;
        stored.context("the stream does not hold what it has just confirmed")
    }

    async fn batch(&self, events: &[Outgoing], again: Option<i64>) -> anyhow::Result<Stored> {
        let publication = Uuid::new_v4();
        let batch_id = publication.simple().to_string();
        let (last, others) = events.split_last().context("a batch of no events")?;
        let client = &self.bus.client;
        let headers = |event: &Outgoing, sequence: usize| {
            let mut headers = HeaderMap::new();
            headers.insert("content-type", envelope::CONTENT_TYPE);
            headers.insert(header::NATS_MESSAGE_ID, message_id(event, again));
            headers.insert(header::NATS_EXPECTED_STREAM, self.stream);
            headers.insert(PUBLICATION, publication.to_string());
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
        Ok(Stored {
            created: self.created,
            first_sequence: answer.seq - count + 1,
            last_sequence: answer.seq,
            last_id: publication,
            events: count,
        })
    }

    /// `None` when the stream does not hold every event where it says.
    async fn one_by_one(
        &self,
        events: &[Outgoing],
        again: Option<i64>,
    ) -> anyhow::Result<Option<Stored>> {
        let publication = Uuid::new_v4();
        let mut sent = Vec::with_capacity(events.len());
        for event in events {
            let id = message_id(event, again);
            let message = PublishMessage::build()
                .header("content-type", envelope::CONTENT_TYPE)
                .header(PUBLICATION, publication.to_string())
                .message_id(&id)
                .expected_stream(self.stream)
                .payload(event.envelope.clone().into());
            let sending = self.bus.jetstream.send_publish(event.subject.clone(), message);
            let ack = timeout(REQUEST_TIMEOUT, sending).await.context("NATS takes nothing")??;
            sent.push(async move { (id, ack.await) });
        }
        let mut acked = Vec::with_capacity(events.len());
        for (message_id, answer) in join_all(sent).await {
            let ack = answer.context("an event was not confirmed by its stream")?;
            let (sequence, duplicate) = (i64::try_from(ack.sequence)?, ack.duplicate);
            acked.push(Acked { message_id, sequence, duplicate });
        }
        self.read_back(&acked, publication).await
    }

    /// What was confirmed one by one, as the stream holds it. Between two confirmations it may have lost
    /// its end, and what it calls a duplicate it may have lost before.
    async fn read_back(
        &self,
        acked: &[Acked],
        publication: Uuid,
    ) -> anyhow::Result<Option<Stored>> {
        let mut stored = Stored {
            created: self.created,
            first_sequence: acked.iter().map(|ack| ack.sequence).min().context("no events")?,
            last_sequence: acked.iter().map(|ack| ack.sequence).max().context("no events")?,
            last_id: publication,
            events: i64::try_from(acked.len())?,
        };
        if let [Acked { duplicate: false, .. }] = acked {
            return Ok(Some(stored));
        }
        let found = join_all(acked.iter().map(|ack| async move {
            let sequence = u64::try_from(ack.sequence)?;
            anyhow::Ok(topology::message(&self.bus, self.stream, sequence).await?)
        }));
        for (ack, found) in acked.iter().zip(found.await) {
            let Some(message) = found?.filter(|found| found.message_id == ack.message_id) else {
                return Ok(None);
            };
            if ack.sequence == stored.last_sequence
                && let Some(publication) = message.publication
            {
                stored.last_id = publication;
            }
        }
        Ok(Some(stored))
    }
}

fn message_id(event: &Outgoing, again: Option<i64>) -> String {
    match again {
        None => event.id.to_string(),
        Some(range) => format!("{}:{range}", event.id),
    }
}
