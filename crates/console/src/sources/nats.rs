//! What NATS knows: streams, queue groups, and who holds a client id. It leaves no consumer behind.

use std::time::Duration;

use anyhow::Context;
use async_nats::jetstream::{consumer, stream};
use common::bus::{Bus, Holder, Reach, lease};
use futures::{StreamExt, TryStreamExt, stream::iter};
use time::OffsetDateTime;
use tokio::time::timeout;

use super::{ANSWER_TIMEOUT, replicas::State};

/// The most streams, the most queue groups of one, and the most subjects of one that are shown.
const MAX_STREAMS: usize = 100;
const MAX_GROUPS: usize = 256;
const MAX_SUBJECTS: usize = 1_000;
/// How many requests are open at once.
const AT_ONCE: usize = 16;

/// Queries NATS.
#[derive(Debug, Clone)]
pub struct Nats {
    bus: Bus,
}

/// A stream and its queue groups.
#[derive(Debug, Clone)]
pub struct StreamReport {
    /// The stream as the server describes it.
    pub info: stream::Info,
    /// Its durable consumers, by name.
    pub groups: Vec<consumer::Info>,
    /// Its other consumers, by name: those of listeners in no group.
    pub listeners: Vec<consumer::Info>,
}

/// Everything that NATS reports, at one time.
#[derive(Debug, Clone)]
pub struct NatsReport {
    /// The streams by name, without those behind key-value buckets.
    pub streams: Vec<StreamReport>,
    /// Every process that holds a client id, sorted by it.
    pub holders: Vec<Holder>,
    /// When it was asked.
    pub at: OffsetDateTime,
}

/// What a stream holds of one subject.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubjectReport {
    /// How many messages.
    pub messages: u64,
    /// The sequence of the first; 0 if there is none.
    pub first_sequence: u64,
    /// The sequence of the last; 0 if there is none.
    pub last_sequence: u64,
}

/// The key in a consumer's metadata whose value is the client id of the only listener that uses it.
pub const LISTENER: &str = "client-id";

/// The client id of the only listener that uses this consumer: `ticketing listen` without a queue group.
#[must_use]
pub fn listener(consumer: &consumer::Info) -> Option<&str> {
    consumer.config.metadata.get(LISTENER).map(String::as_str)
}

impl Nats {
    /// Uses this connection.
    #[must_use]
    pub fn new(bus: Bus) -> Self {
        Self { bus }
    }

    /// The connection.
    #[must_use]
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Whether the server can be reached, as far as the connection knows.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.bus.connection_state().borrow().up
    }

    /// The state of NATS after it has not answered, and the reason; takes at most `limit`.
    pub async fn state(&self, limit: Duration) -> (State, &'static str) {
        if self.is_connected() {
            return (State::Frozen, "it does not answer");
        }
        match self.bus.reach(limit).await {
            Reach::Refused => (State::Down, "nothing listens at its address"),
            Reach::Silent => (State::Frozen, "it does not answer"),
            Reach::Greets => (State::Down, "it rejects this user, or has just started"),
        }
    }

    /// Streams, queue groups and leases.
    ///
    /// # Errors
    /// When NATS does not answer within [`ANSWER_TIMEOUT`].
    pub async fn report(&self) -> anyhow::Result<NatsReport> {
        self.report_within(ANSWER_TIMEOUT).await
    }

    /// The same, with another time limit.
    ///
    /// # Errors
    /// When NATS does not answer within `limit`.
    pub async fn report_within(&self, limit: Duration) -> anyhow::Result<NatsReport> {
        let at = OffsetDateTime::now_utc();
        bounded(limit, async {
            let (streams, holders) =
                tokio::try_join!(self.streams(), async { Ok(lease::holders(&self.bus).await?) })?;
            Ok(NatsReport { streams, holders: holders.into_values().collect(), at })
        })
        .await
    }

    async fn streams(&self) -> anyhow::Result<Vec<StreamReport>> {
        let listed = self.bus.jetstream.streams().take(MAX_STREAMS);
        let infos: Vec<stream::Info> = listed.try_collect().await.context("the streams")?;
        // Every key-value bucket is a stream.
        let infos = infos.into_iter().filter(|info| !info.config.name.starts_with("KV_"));
        let reports = iter(infos).map(|info| async move {
            let stream = self.bus.jetstream.get_stream_no_info(&info.config.name).await?;
            let consumers = stream.consumers().take(MAX_GROUPS);
            let mut groups: Vec<consumer::Info> = consumers.try_collect().await?;
            groups.sort_by(|one, other| one.name.cmp(&other.name));
            // A consumer without a durable name belongs to no queue group.
            let durable = |group: &consumer::Info| group.config.durable_name.is_some();
            let (groups, listeners) = groups.into_iter().partition(durable);
            anyhow::Ok(StreamReport { info, groups, listeners })
        });
        let mut streams: Vec<_> = reports.buffer_unordered(AT_ONCE).try_collect().await?;
        streams.sort_by(|one, other| one.info.config.name.cmp(&other.info.config.name));
        Ok(streams)
    }

    /// What a stream holds of a subject.
    ///
    /// # Errors
    /// When NATS does not answer within [`ANSWER_TIMEOUT`].
    pub async fn subject(&self, stream: &str, subject: &str) -> anyhow::Result<SubjectReport> {
        bounded(ANSWER_TIMEOUT, async {
            let stream = self.bus.jetstream.get_stream_no_info(stream).await?;
            let mut counts = stream.info_with_subjects(subject).await?.take(MAX_SUBJECTS);
            let mut messages = 0;
            while let Some((_, count)) = counts.try_next().await? {
                messages += count as u64;
            }
            if messages == 0 {
                return Ok(SubjectReport::default());
            }
            let first = stream.get_first_raw_message_by_subject(subject, 1).await?;
            let last = stream.get_last_raw_message_by_subject(subject).await?;
            let (first_sequence, last_sequence) = (first.sequence, last.sequence);
            Ok(SubjectReport { messages, first_sequence, last_sequence })
        })
        .await
    }
}

/// Fails unless the answer arrives within `limit`.
async fn bounded<T>(
    limit: Duration,
    asked: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    timeout(limit, asked).await.with_context(|| format!("NATS did not answer within {limit:?}"))?
}
