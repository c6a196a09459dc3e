//! What must exist on the server: streams, queue groups, buckets. Made if missing, checked if
//! there, in this one place.

use std::time::Duration;

use async_nats::jetstream::{
    Context, ErrorCode,
    consumer::{AckPolicy, DeliverPolicy, FromConsumer, IntoConsumerConfig, pull},
    context::GetStreamErrorKind,
    kv,
    stream::{Config, ConsumerErrorKind, DiscardPolicy, Info, RetentionPolicy, StorageType},
};
use tracing::{info, warn};

use crate::connection::Bus;
use crate::event::Stream;

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

/// What a stream says of itself. Its creation time is its identity: a stream that was wiped and
/// made again counts from one under the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamState {
    /// When this incarnation was made.
    pub created: time::OffsetDateTime,
    /// The sequence of its newest message.
    pub last_sequence: u64,
}

impl From<Info> for StreamState {
    fn from(info: Info) -> Self {
        Self { created: info.created, last_sequence: info.state.last_sequence }
    }
}

/// Makes sure of a stream.
///
/// # Errors
/// [`TopologyError`].
pub async fn stream(bus: &Bus, wanted: &Stream) -> Result<StreamState, TopologyError> {
    let found = bus.jetstream.get_stream(wanted.name).await;
    let info = match found {
        Ok(stream) => stream.cached_info().clone(),
        Err(error) if is_missing(&error.kind()) => return create_stream(bus, wanted).await,
        Err(error) => return Err(TopologyError::Away(error.to_string())),
    };
    check_stream(&info.config)?;
    let missing: Vec<String> = wanted
        .subjects
        .iter()
        .filter(|subject| !info.config.subjects.iter().any(|found| found == *subject))
        .map(ToString::to_string)
        .collect();
    if missing.is_empty() {
        return Ok(info.into());
    }
    // Only ever added: an older release beside this one must keep its subjects.
    info!(stream = wanted.name, subjects = ?missing, "adding subjects to the stream");
    let mut config = info.config;
    config.subjects.extend(missing);
    let updated = bus.jetstream.update_stream(config).await.map_err(away)?;
    Ok(updated.into())
}

fn is_missing(kind: &GetStreamErrorKind) -> bool {
    matches!(kind, GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

async fn create_stream(bus: &Bus, wanted: &Stream) -> Result<StreamState, TopologyError> {
    let config = Config {
        name: wanted.name.to_owned(),
        subjects: wanted.subjects.iter().map(ToString::to_string).collect(),
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        // A full stream refuses what is new, which the outbox keeps, rather than drop what a
        // group has not read yet.
        discard: DiscardPolicy::New,
        max_age: STREAM_MAX_AGE,
        duplicate_window: DUPLICATE_WINDOW,
        num_replicas: bus.replicas,
        allow_direct: true,
        ..Config::default()
    };
    // Several processes may get here at once: the same configuration twice is no error.
    let created = bus.jetstream.create_stream(config).await.map_err(away)?;
    info!(stream = wanted.name, "made the stream");
    Ok(created.cached_info().clone().into())
}

fn check_stream(found: &Config) -> Result<(), TopologyError> {
    let drift = |why: &str| {
        Err(TopologyError::Drift { what: format!("stream {}", found.name), why: why.to_owned() })
    };
    if found.retention != RetentionPolicy::Limits {
        return drift("its retention must be limits, so that every group gets every event");
    }
    if found.no_ack {
        return drift("it must confirm what it stores (no_ack is set)");
    }
    if found.sealed {
        return drift("it is sealed");
    }
    if found.storage == StorageType::Memory {
        warn!(
            stream = found.name,
            "the stream is kept in memory: a restart of NATS empties it, and the outbox fills it again"
        );
    }
    Ok(())
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
