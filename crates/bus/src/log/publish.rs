//! Publishes a page of events: in one atomic batch if the stream accepts that, else one by one. It also falls
//! back to one by one if the outcome of a batch is unknown.
//!
//! A server that syncs every write to disk syncs a batch once.
//! <https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-50.md>

use async_nats::{
    HeaderMap, header,
    jetstream::{self, message::PublishMessage},
};
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
    topology::{self, PUBLICATION, TopologyError},
};

const BATCH_ID: &str = "Nats-Batch-Id";
const BATCH_SEQUENCE: &str = "Nats-Batch-Sequence";
const BATCH_COMMIT: &str = "Nats-Batch-Commit";

/// Publishes to one incarnation of a stream.
#[derive(Debug, Clone)]
pub(crate) struct Publisher {
    pub(crate) bus: Bus,
    pub(crate) stream: &'static str,
    /// Its creation time, as last verified.
    pub(crate) created: OffsetDateTime,
    /// Whether it accepts atomic batches.
    pub(crate) atomic: bool,
}

/// Why not every event was confirmed. Some may be stored nevertheless.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishError {
    /// The server did not answer in time.
    #[error("no answer in time")]
    NoAnswer,
    /// The server refused the batch.
    #[error("the server rejected the batch: {0}")]
    Refused(String),
    /// The server stored the messages, but not as a batch.
    #[error("the server did not accept it as one batch")]
    NotABatch,
    /// The stream does not hold an event that it confirmed.
    #[error("the stream does not hold events that it has just confirmed")]
    NotHeld,
    /// There was nothing to publish.
    #[error("a page without events")]
    Empty,
    /// The client could not send.
    #[error(transparent)]
    Send(#[from] async_nats::PublishError),
    /// The request failed.
    #[error(transparent)]
    Request(#[from] async_nats::RequestError),
    /// The stream did not confirm an event.
    #[error("an event was not confirmed by its stream: {0}")]
    Unconfirmed(#[from] jetstream::context::PublishError),
    /// The server's answer does not parse.
    #[error("an unreadable answer: {0}")]
    Answer(#[from] serde_json::Error),
    /// The stream could not be read.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// A sequence beyond the range of a Postgres `bigint`.
    #[error(transparent)]
    Number(#[from] std::num::TryFromIntError),
}

impl PublishError {
    /// Whether an outage of NATS may explain it.
    pub(super) fn may_be_an_outage(&self) -> bool {
        use jetstream::context::PublishErrorKind::{BrokenPipe, StreamNotFound, TimedOut};
        match self {
            Self::NoAnswer | Self::Send(_) | Self::Request(_) => true,
            Self::Topology(error) => matches!(error, TopologyError::Away(_)),
            // A server that has just started does not know its streams yet.
            Self::Unconfirmed(error) => {
                matches!(error.kind(), BrokenPipe | StreamNotFound | TimedOut)
            }
            Self::Refused(_) | Self::NotABatch | Self::NotHeld | Self::Empty => false,
            Self::Answer(_) | Self::Number(_) => false,
        }
    }
}

/// The server's answer to one message.
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
    /// Publishes at least one event, and waits until the stream has stored each.
    ///
    /// `again` is the number of the range that is being republished. It changes the `Nats-Msg-Id`, because
    /// the stream's duplicate window may still hold the first one of an event that the stream lost.
    ///
    /// # Errors
    /// When not all were confirmed. Some may be stored nevertheless.
    pub(crate) async fn publish(
        &self,
        events: &[Outgoing],
        again: Option<i64>,
    ) -> Result<Stored, PublishError> {
        if self.atomic && events.len() > 1 {
            match self.batch(events, again).await {
                Ok(stored) => return Ok(stored),
                // Duplicates among them, a server older than the one that created the stream, or no answer.
                // One by one, each event's answer tells whether it is stored.
                Err(error) => {
                    debug!(stream = self.stream, %error, "the atomic batch failed, publishing one by one");
                }
            }
        }
        if let Some(stored) = self.one_by_one(events, again).await? {
            return Ok(stored);
        }
        // The server treats some as duplicates of events that it lost: publish all again, under new ids.
        let now = i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos())?;
        let stored = self.one_by_one(events, Some(now)).await?;
        stored.ok_or(PublishError::NotHeld)
    }

    async fn batch(&self, events: &[Outgoing], again: Option<i64>) -> Result<Stored, PublishError> {
        let publication = Uuid::new_v4();
        let batch_id = publication.simple().to_string();
        let (last, others) = events.split_last().ok_or(PublishError::Empty)?;
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
            Ok::<_, PublishError>(answer.payload)
        };
        let answer = timeout(REQUEST_TIMEOUT, sent).await.map_err(|_| PublishError::NoAnswer)??;
        let answer: BatchAnswer = serde_json::from_slice(&answer)?;
        if let Some(error) = answer.error {
            return Err(PublishError::Refused(error.description));
        }
        let count = i64::try_from(events.len())?;
        if answer.batch_id != batch_id || answer.count != count {
            return Err(PublishError::NotABatch);
        }
        Ok(Stored {
            created: self.created,
            first_sequence: answer.seq - count + 1,
            last_sequence: answer.seq,
            last_id: publication,
            events: count,
        })
    }

    /// `None` if the stream does not hold every event at the sequence that it confirmed.
    async fn one_by_one(
        &self,
        events: &[Outgoing],
        again: Option<i64>,
    ) -> Result<Option<Stored>, PublishError> {
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
            let ack =
                timeout(REQUEST_TIMEOUT, sending).await.map_err(|_| PublishError::NoAnswer)??;
            sent.push(async move { (id, ack.await) });
        }
        let mut acked = Vec::with_capacity(events.len());
        for (message_id, answer) in join_all(sent).await {
            let ack = answer?;
            let (sequence, duplicate) = (i64::try_from(ack.sequence)?, ack.duplicate);
            acked.push(Acked { message_id, sequence, duplicate });
        }
        self.read_back(&acked, publication).await
    }

    /// Reads back events that were confirmed one by one. Between two confirmations the stream may have lost its end,
    /// and it may have lost what it calls a duplicate.
    async fn read_back(
        &self,
        acked: &[Acked],
        publication: Uuid,
    ) -> Result<Option<Stored>, PublishError> {
        let mut stored = Stored {
            created: self.created,
            first_sequence: acked
                .iter()
                .map(|ack| ack.sequence)
                .min()
                .ok_or(PublishError::Empty)?,
            last_sequence: acked.iter().map(|ack| ack.sequence).max().ok_or(PublishError::Empty)?,
            last_id: publication,
            events: i64::try_from(acked.len())?,
        };
        if let [Acked { duplicate: false, .. }] = acked {
            return Ok(Some(stored));
        }
        let found = join_all(acked.iter().map(|ack| async move {
            let sequence = u64::try_from(ack.sequence)?;
            Ok::<_, PublishError>(topology::message(&self.bus, self.stream, sequence).await?)
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
