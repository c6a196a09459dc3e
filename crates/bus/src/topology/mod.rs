//! What must exist on the server: streams, queue groups, buckets. Made if missing, checked if
//! there, in this one place.

mod refusal;
mod streams;

use std::time::Duration;

use async_nats::jetstream::{
    Context, ErrorCode,
    consumer::{AckPolicy, DeliverPolicy, FromConsumer, IntoConsumerConfig, pull},
    kv,
    stream::{ConsumerErrorKind, StorageType},
};
use tracing::{info, warn};

pub(crate) use refusal::Refusal;
pub use streams::{GroupState, StreamState, groups, message_id, stream};

use crate::{connection::Bus, event::Stream};

/// How long a stream keeps an event: the time that a group may be away, or a new one look back.
pub const STREAM_MAX_AGE: Duration = Duration::from_secs(14 * 24 * 3600);
/// How long the server remembers a `Nats-Msg-Id`. Economy only: the inbox is the guarantee.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// How long a member may keep an event before another gets it. Short, because a dead member's
/// events wait this long; a live one says every third of it that it is still at work.
pub const ACK_WAIT: Duration = Duration::from_secs(8);
/// How many events of a group may be unacknowledged at once, over all its members: dozens of
/// members with full hands, and those that wait for another try.
const MAX_ACK_PENDING: i64 = 20_000;

/// Why the topology is not as it must be.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// The server did not answer, or not yet: try again.
    #[error("NATS is not ready: {0}")]
    Away(String),
    /// Something of that name exists and is something else: a person must look.
    #[error("{what} exists on the server and cannot serve: {why}")]
    Drift {
        /// What it is.
        what: String,
        /// What differs, and how to mend it.
        why: String,
    },
}

/// Makes sure of a queue group's consumer: one durable that all members share.
///
/// # Errors
/// [`TopologyError`].
pub async fn queue_group(
    bus: &Bus,
    group: &str,
    stream: &Stream,
    subjects: &[&str],
) -> Result<(), TopologyError> {
    let wanted = consumer_config(group, subjects);
    let found: Result<async_nats::jetstream::consumer::Consumer<pull::Config>, _> =
        bus.jetstream.get_consumer_from_stream(group, stream.name).await;
    match found {
        Ok(consumer) => mend_consumer(bus, stream, &consumer.cached_info().config, wanted).await,
        Err(error) if is_missing_consumer(&error.kind()) => {
            bus.jetstream.create_consumer_on_stream(wanted, stream.name).await.map_err(away)?;
            info!(group, stream = stream.name, "made the queue group");
            Ok(())
        }
        Err(error) if error.kind() == ConsumerErrorKind::InvalidConsumerType => {
            Err(TopologyError::Drift {
                what: format!("consumer {group}"),
                why: "it pushes; delete it, and the group is made anew".to_owned(),
            })
        }
        Err(error) => Err(away(error)),
    }
}

fn is_missing_consumer(kind: &ConsumerErrorKind) -> bool {
    matches!(kind, ConsumerErrorKind::JetStream(error) if error.error_code() == ErrorCode::CONSUMER_NOT_FOUND)
}

fn consumer_config(group: &str, subjects: &[&str]) -> pull::Config {
    pull::Config {
        durable_name: Some(group.to_owned()),
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        // The bus counts attempts itself, event by event; a limit here would let events fall
        // silently out of the group after a bad night.
        max_deliver: -1,
        max_ack_pending: MAX_ACK_PENDING,
        filter_subjects: subjects.iter().map(ToString::to_string).collect(),
        ..pull::Config::default()
    }
}

async fn mend_consumer(
    bus: &Bus,
    stream: &Stream,
    found: &async_nats::jetstream::consumer::Config,
    wanted: pull::Config,
) -> Result<(), TopologyError> {
    let mut found_subjects = found.filter_subjects.clone();
    if !found.filter_subject.is_empty() {
        found_subjects.push(found.filter_subject.clone());
    }
    found_subjects.sort();
    let mut wanted_subjects = wanted.filter_subjects.clone();
    wanted_subjects.sort();
    if found.ack_policy != AckPolicy::Explicit {
        return Err(TopologyError::Drift {
            what: format!("consumer {}", wanted.durable_name.unwrap_or_default()),
            why: "its ack policy must be explicit; delete it, and the group is made anew"
                .to_owned(),
        });
    }
    let same = found_subjects == wanted_subjects
        && found.ack_wait == wanted.ack_wait
        && found.max_deliver == wanted.max_deliver
        && found.max_ack_pending == wanted.max_ack_pending;
    if same {
        return Ok(());
    }
    let group = wanted.durable_name.clone().unwrap_or_default();
    warn!(group, "the queue group's consumer has drifted, setting it right");
    let mut config = found.clone();
    let wanted = wanted.into_consumer_config();
    config.filter_subject = String::new();
    config.filter_subjects = wanted.filter_subjects;
    config.ack_wait = wanted.ack_wait;
    config.max_deliver = wanted.max_deliver;
    config.max_ack_pending = wanted.max_ack_pending;
    let config = pull::Config::try_from_consumer_config(config)
        .map_err(|error| TopologyError::Away(error.to_string()))?;
    bus.jetstream.update_consumer_on_stream(config, stream.name).await.map_err(away)?;
    Ok(())
}

/// Makes sure of a bucket that forgets a key `max_age` after it was last written. Kept in memory:
/// what is in it is renewed by its owners within seconds.
///
/// # Errors
/// [`TopologyError::Away`].
pub async fn bucket(
    jetstream: &Context,
    name: &str,
    max_age: Duration,
    replicas: usize,
) -> Result<kv::Store, TopologyError> {
    if let Ok(store) = jetstream.get_key_value(name).await {
        return Ok(store);
    }
    let config = kv::Config {
        bucket: name.to_owned(),
        history: 1,
        max_age,
        storage: StorageType::Memory,
        num_replicas: replicas,
        ..kv::Config::default()
    };
    jetstream.create_key_value(config).await.map_err(away)
}

fn away(error: impl std::fmt::Display) -> TopologyError {
    TopologyError::Away(error.to_string())
}
