//! Ensures a stream: creates it if missing, corrects it if it could lose events, and refuses it with the reason if
//! it cannot be corrected.
//!
//! | Setting | An edit is |
//! |---|---|
//! | subjects | missing ones are added; none is removed, because another release may need it |
//! | max_msgs, max_bytes, max_msgs_per_subject, max_msg_size, discard, discard_new_per_subject | corrected: a limit drops or refuses events |
//! | max_age, duplicate_window | corrected if shorter; longer is the operator's choice |
//! | no_ack, subject_transform, sources, republish | corrected: they leave events unconfirmed, rename them, or add others |
//! | allow_rollup, subject_delete_marker_ttl | corrected: a publisher could empty the stream; the server would add messages that are no events |
//! | consumer_limits | corrected: groups get their settings from the bus |
//! | allow_direct, allow_atomic | corrected |
//! | retention | interest is corrected; the server cannot change work queue, which is refused |
//! | sealed, mirror, allow_msg_counter | refused: the server cannot change them |
//! | storage | the operator's choice, unless [`Options::store`](crate::Options::store) is set: then another one is refused |
//! | replicas, placement, compression, metadata, description, first_seq, persist_mode, deny_delete, deny_purge, max_consumers, message TTLs and schedules, fast batches | the operator's choice |
//!
//! A change that the server rejects is refused with the server's reason.

use std::time::Duration;

use async_nats::jetstream::{
    ErrorCode,
    context::GetStreamErrorKind,
    response::Response,
    stream::{Config, DiscardPolicy, Info, PersistenceMode, RetentionPolicy, StorageType},
};
use tracing::{info, warn};

use super::{DUPLICATE_WINDOW, TopologyError, away, bounded};
use crate::{connection::Bus, event::Stream, store::Store};

/// The state of a stream. Its creation time is its identity: a stream that was deleted and recreated counts
/// sequences from one under the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamState {
    /// When this incarnation was created.
    pub created: time::OffsetDateTime,
    /// The sequence of its oldest message; one above the newest when it holds none.
    pub first_sequence: u64,
    /// The sequence of its newest message.
    pub last_sequence: u64,
    /// How many messages between the two are missing.
    pub deleted: u64,
    /// Whether it accepts atomic batches.
    pub atomic: bool,
}

impl From<&Info> for StreamState {
    fn from(info: &Info) -> Self {
        Self {
            created: info.created,
            first_sequence: info.state.first_sequence,
            last_sequence: info.state.last_sequence,
            deleted: info.state.deleted_count.unwrap_or_default(),
            atomic: info.config.allow_atomic_publish,
        }
    }
}

/// Ensures a stream: creates or corrects it.
///
/// # Errors
/// [`TopologyError`].
pub async fn stream(bus: &Bus, wanted: &Stream) -> Result<StreamState, TopologyError> {
    let info = match bounded(bus.jetstream.get_stream(wanted.name)).await? {
        Ok(stream) => stream.cached_info().clone(),
        Err(error) if is_missing(&error.kind()) => return create(bus, wanted).await,
        Err(error) => return Err(away(error)),
    };
    refuse(&info.config, bus.options.store)?;
    let (config, changes) = corrected(bus, &info.config, wanted);
    if changes.is_empty() {
        return Ok((&info).into());
    }
    warn!(stream = wanted.name, ?changes, "correcting the stream");
    let update: Response<Info> =
        bounded(bus.jetstream.request(format!("STREAM.UPDATE.{}", wanted.name), &config))
            .await?
            .map_err(away)?;
    match update {
        Response::Ok(info) => Ok((&info).into()),
        // The server's rules. Other errors may be temporary.
        Response::Err { error } if error.error_code() == ErrorCode::STREAM_INVALID_CONFIG => {
            Err(TopologyError::Drift {
                what: format!("stream {}", wanted.name),
                why: format!("the server rejects the correction: {error}; {changes:?}"),
            })
        }
        Response::Err { error } => Err(away(error)),
    }
}

/// The state of a stream, without creating or changing it.
///
/// # Errors
/// [`TopologyError::Missing`] if it does not exist; [`TopologyError::Away`].
pub(crate) async fn look_at(bus: &Bus, stream: &Stream) -> Result<StreamState, TopologyError> {
    match bounded(bus.jetstream.get_stream(stream.name)).await? {
        Ok(stream) => Ok(stream.cached_info().into()),
        Err(error) if is_missing(&error.kind()) => Err(TopologyError::Missing {
            what: format!("stream {}", stream.name),
            why: "the service that publishes to it creates it".to_owned(),
        }),
        Err(error) => Err(away(error)),
    }
}

fn is_missing(kind: &GetStreamErrorKind) -> bool {
    matches!(kind, GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

/// Whether a stream can accept atomic batches: since nats-server 2.12, if it writes to disk before it confirms.
fn takes_batches(bus: &Bus, config: &Config) -> bool {
    bus.client.is_server_compatible(2, 12, 0)
        && !matches!(config.persist_mode, Some(PersistenceMode::Async))
}

async fn create(bus: &Bus, wanted: &Stream) -> Result<StreamState, TopologyError> {
    let config = Config {
        name: wanted.name.to_owned(),
        subjects: wanted.subjects.iter().map(ToString::to_string).collect(),
        retention: RetentionPolicy::Limits,
        storage: bus.options.store.map_or(StorageType::File, Store::storage),
        // A full stream rejects new events, which stay in the outbox, instead of dropping events that a
        // group has not read yet.
        discard: DiscardPolicy::New,
        max_age: bus.options.retention,
        duplicate_window: DUPLICATE_WINDOW,
        num_replicas: bus.options.stream_replicas,
        allow_direct: true,
        allow_atomic_publish: bus.client.is_server_compatible(2, 12, 0),
        ..Config::default()
    };
    // Several processes may do so at once: creating it twice with the same settings is no error.
    let created = bounded(bus.jetstream.create_stream(config)).await?.map_err(away)?;
    info!(stream = wanted.name, "created the stream");
    Ok(created.cached_info().into())
}

/// Refuses a stream with a wrong setting that the server cannot change.
fn refuse(found: &Config, store: Option<Store>) -> Result<(), TopologyError> {
    let drift = |why: &str| {
        Err(TopologyError::Drift { what: format!("stream {}", found.name), why: why.to_owned() })
    };
    if found.retention == RetentionPolicy::WorkQueue {
        return drift(
            "its retention must be limits, so that every group gets every event; \
                      delete it, and it is recreated and refilled",
        );
    }
    if let Some(store) = store.filter(|store| store.storage() != found.storage) {
        let has = format!("{:?}", found.storage).to_lowercase();
        let again = if store.refills() { " and refilled" } else { "" };
        return drift(&format!(
            "it is in {has} storage, which the store {store} does not use; delete it, and it is recreated{again}, \
             or set the store that it has"
        ));
    }
    if found.allow_message_counter {
        return drift("it counts messages instead of storing them; delete it, and it is recreated");
    }
    if found.sealed {
        return drift("it is sealed; delete it, and it is recreated and refilled");
    }
    if found.mirror.is_some() {
        return drift("it mirrors another stream; delete it, and it is recreated and refilled");
    }
    Ok(())
}

/// The corrected configuration, and the changes.
fn corrected(bus: &Bus, found: &Config, wanted: &Stream) -> (Config, Vec<String>) {
    let (batches, retention) = (takes_batches(bus, found), bus.options.retention);
    let (mut config, mut changes) = (found.clone(), Vec::new());
    for subject in wanted.subjects {
        if !config.subjects.iter().any(|found| found == subject) {
            changes.push(format!("subjects: {subject} added"));
            config.subjects.push((*subject).to_owned());
        }
    }
    let mut set = |name: &str, differs: bool, from: String, to: &str| {
        if differs {
            changes.push(format!("{name}: {from} → {to}"));
        }
        differs
    };
    let limited = |limit: i64| limit > 0;
    let limits = [
        ("max_msgs", &mut config.max_messages),
        ("max_bytes", &mut config.max_bytes),
        ("max_msgs_per_subject", &mut config.max_messages_per_subject),
    ];
    for (name, limit) in limits {
        if set(name, limited(*limit), limit.to_string(), "no limit") {
            *limit = -1;
        }
    }
    let size = config.max_message_size;
    if set("max_msg_size", size > 0, size.to_string(), "no limit") {
        config.max_message_size = -1;
    }
    if set("discard", config.discard != DiscardPolicy::New, format!("{:?}", config.discard), "new")
    {
        config.discard = DiscardPolicy::New;
    }
    let policy = config.retention;
    if set("retention", policy != RetentionPolicy::Limits, format!("{policy:?}"), "limits") {
        config.retention = RetentionPolicy::Limits;
    }
    let shorter = |age: Duration, wanted: Duration| !age.is_zero() && age < wanted;
    let age = config.max_age;
    if set("max_age", shorter(age, retention), format!("{age:?}"), &format!("{retention:?}")) {
        config.max_age = retention;
    }
    let window = config.duplicate_window;
    if set("duplicate_window", window < DUPLICATE_WINDOW, format!("{window:?}"), "120s") {
        config.duplicate_window = DUPLICATE_WINDOW;
    }
    let flags = [
        ("no_ack", &mut config.no_ack, false),
        ("discard_new_per_subject", &mut config.discard_new_per_subject, false),
        ("allow_rollup", &mut config.allow_rollup, false),
        ("allow_direct", &mut config.allow_direct, true),
        ("allow_atomic", &mut config.allow_atomic_publish, batches || found.allow_atomic_publish),
    ];
    for (name, flag, wanted) in flags {
        if set(name, *flag != wanted, flag.to_string(), &wanted.to_string()) {
            *flag = wanted;
        }
    }
    changes.extend(clear(&mut config));
    (config, changes)
}

/// Removes what renames, adds or drops messages, or limits groups.
fn clear(config: &mut Config) -> Vec<String> {
    let markers = config.subject_delete_marker_ttl.take().is_some_and(|ttl| !ttl.is_zero());
    let cleared = [
        ("subject_transform", config.subject_transform.take().is_some()),
        ("sources", config.sources.take().is_some_and(|sources| !sources.is_empty())),
        ("subject_delete_marker_ttl", markers),
        ("consumer_limits", config.consumer_limits.take().is_some()),
        ("republish", config.republish.take().is_some()),
    ];
    let were = cleared.into_iter().filter(|(_, was)| *was);
    were.map(|(name, _)| format!("{name}: set → none")).collect()
}
