//! A queue group's consumer as it must be: made if missing, set right, or deleted and made again where it
//! has passed over events or the server does not let a setting be changed.
//!
//! | Setting | What a member does about an edit |
//! |---|---|
//! | filter lacks a subject, deliver policy, ack policy, max_deliver, headers_only | made again: it may have passed over events |
//! | deliver_subject, replay policy, max_waiting too small | made again: the server does not let them be changed |
//! | filter has more subjects, ack_wait, max_ack_pending, backoff, inactive_threshold, rate limit, priority groups, limits of one request | set right |
//! | paused | resumed |
//! | description, metadata, replicas, memory storage, sampling | the operator's choice |
//!
//! Made again, it begins after what the group had acknowledged when this member last saw it right; when the
//! member has not, at the beginning of the stream. The inbox passes over what took effect.
//!
//! The metadata says which subjects some release wanted, and where the bus let the consumer begin. An older
//! release beside a newer one finds the newer one's subjects there and leaves them in the filter.

use std::time::Duration;

use async_nats::jetstream::{
    self, ErrorCode,
    consumer::{AckPolicy, Config, DeliverPolicy, Info, PriorityPolicy, ReplayPolicy},
    response::Response,
};
use serde_json::json;
use time::OffsetDateTime;
use tracing::{info, warn};

use super::{ACK_WAIT, MAX_ACK_PENDING, StreamState, TopologyError, away, bounded};
use crate::{connection::Bus, event::Stream};

/// How many open requests of members a consumer must take: one each. It is the server's default.
const MIN_WAITING: i64 = 512;
/// In the consumer's metadata: every subject that a release has wanted, with spaces between.
const SUBJECTS: &str = "bus.subjects";
/// In the consumer's metadata: the sequence at which the bus let it begin.
const FROM: &str = "bus.from";

/// A queue group, looked after by one of its members.
#[derive(Debug)]
pub(crate) struct Group {
    name: &'static str,
    stream: &'static Stream,
    subjects: &'static [&'static str],
    /// What the group had acknowledged when its consumer was last seen right, and of which stream.
    acknowledged: Option<(OffsetDateTime, u64)>,
}

/// How a consumer differs from what it must be.
#[derive(Debug, Default)]
struct Drift {
    /// What differs, for the log.
    changes: Vec<String>,
    /// It may have passed over events.
    passed_over: bool,
    /// The server does not let it be changed.
    fixed: bool,
}

impl Group {
    /// The group of this name, which takes these subjects of a stream. Asks the server nothing.
    pub(crate) fn new(
        name: &'static str,
        stream: &'static Stream,
        subjects: &'static [&'static str],
    ) -> Self {
        Self { name, stream, subjects, acknowledged: None }
    }

    /// Forgets what the group had acknowledged: behind a new connection may be a server with an older
    /// store, whose sequences are of other events.
    pub(crate) fn forget(&mut self) {
        self.acknowledged = None;
    }

    /// Makes sure of the group's consumer. `state` is what the stream has just said of itself; without
    /// it, a consumer that is made again begins at the beginning.
    ///
    /// # Errors
    /// [`TopologyError`].
    pub(crate) async fn make_sure(
        &mut self,
        bus: &Bus,
        state: Option<StreamState>,
    ) -> Result<(), TopologyError> {
        self.acknowledged = self.acknowledged.filter(|(created, sequence)| {
            state.is_some_and(|s| s.created == *created && s.last_sequence >= *sequence)
        });
        let Some(found) = self.find(bus).await? else {
            return self.make(bus, None, self.acknowledged).await;
        };
        let drift = self.differences(&found.config);
        let own = state.map(|state| (state.created, found.ack_floor.stream_sequence));
        if !drift.passed_over && !drift.fixed {
            if !drift.changes.is_empty() && !self.set_right(bus, &found, &drift).await? {
                warn!(group = self.name, "the server lets it be changed only by making it again");
                return self.make_again(bus, &found, own).await;
            }
            if found.paused {
                self.resume(bus).await?;
            }
            self.acknowledged = own;
            return Ok(());
        }
        warn!(group = self.name, changes = ?drift.changes, "making the queue group's consumer again");
        let from = if drift.passed_over { self.acknowledged } else { own };
        self.make_again(bus, &found, from).await
    }

    async fn find(&self, bus: &Bus) -> Result<Option<Info>, TopologyError> {
        let subject = format!("CONSUMER.INFO.{}.{}", self.stream.name, self.name);
        match bounded(bus.jetstream.request(subject, &json!({}))).await?.map_err(away)? {
            Response::Ok(info) => Ok(Some(info)),
            Response::Err { error } if error.error_code() == ErrorCode::CONSUMER_NOT_FOUND => {
                Ok(None)
            }
            Response::Err { error } => Err(away(error)),
        }
    }

    fn differences(&self, found: &Config) -> Drift {
        let mut drift = Drift::default();
        let filter = filter(found);
        let lacks = self.subjects.iter().filter(|s| !filter.iter().any(|f| f == *s));
        let lacking = lacks.count() > 0 && !filter.is_empty();
        let from_start = match found.deliver_policy {
            DeliverPolicy::All => true,
            DeliverPolicy::ByStartSequence { start_sequence } => {
                start_sequence <= 1 || found.metadata.get(FROM) == Some(&start_sequence.to_string())
            }
            _ => false,
        };
        let passed_over = [
            ("filter", lacking, format!("{filter:?}")),
            ("deliver_policy", !from_start, format!("{:?}", found.deliver_policy)),
            (
                "ack_policy",
                found.ack_policy != AckPolicy::Explicit,
                format!("{:?}", found.ack_policy),
            ),
            ("max_deliver", found.max_deliver > 0, found.max_deliver.to_string()),
            ("headers_only", found.headers_only, "true".to_owned()),
        ];
        let fixed = [
            (
                "deliver_subject",
                found.deliver_subject.is_some(),
                format!("{:?}", found.deliver_subject),
            ),
            ("replay_policy", found.replay_policy != ReplayPolicy::Instant, "original".to_owned()),
            (
                "max_waiting",
                found.max_waiting > 0 && found.max_waiting < MIN_WAITING,
                found.max_waiting.to_string(),
            ),
        ];
        let ours = self.right(found);
        let mendable = [
            ("filter", !lacking && filter != ours.filter_subjects, format!("{filter:?}")),
            ("ack_wait", found.ack_wait != ours.ack_wait, format!("{:?}", found.ack_wait)),
            (
                "max_ack_pending",
                found.max_ack_pending != ours.max_ack_pending,
                found.max_ack_pending.to_string(),
            ),
            ("backoff", !found.backoff.is_empty(), format!("{:?}", found.backoff)),
            (
                "inactive_threshold",
                !found.inactive_threshold.is_zero(),
                format!("{:?}", found.inactive_threshold),
            ),
            ("rate_limit", found.rate_limit != 0, found.rate_limit.to_string()),
            ("max_batch", found.max_batch > 0, found.max_batch.to_string()),
            ("max_bytes", found.max_bytes > 0, found.max_bytes.to_string()),
            ("max_expires", !found.max_expires.is_zero(), format!("{:?}", found.max_expires)),
            (
                "priority_groups",
                !found.priority_groups.is_empty(),
                format!("{:?}", found.priority_groups),
            ),
        ];
        drift.passed_over = passed_over.iter().any(|(_, differs, _)| *differs);
        drift.fixed = fixed.iter().any(|(_, differs, _)| *differs);
        for (name, differs, was) in passed_over.into_iter().chain(fixed).chain(mendable) {
            if differs {
                drift.changes.push(format!("{name}: was {was}"));
            }
        }
        drift
    }

    /// The configuration as it must be, with what is the operator's choice as it was found.
    fn right(&self, found: &Config) -> Config {
        let mut config = found.clone();
        let wanted = found.metadata.get(SUBJECTS).map(String::as_str).unwrap_or_default();
        let wanted = wanted.split_whitespace().chain(self.subjects.iter().copied());
        let mut subjects: Vec<String> = wanted.map(ToOwned::to_owned).collect();
        subjects.sort();
        subjects.dedup();
        config.metadata.insert(SUBJECTS.to_owned(), subjects.join(" "));
        (config.filter_subject, config.filter_subjects) = (String::new(), subjects);
        (config.ack_policy, config.ack_wait) = (AckPolicy::Explicit, ACK_WAIT);
        // The bus counts attempts itself, event by event; a limit here would let events fall silently
        // out of the group after a bad night.
        (config.max_deliver, config.backoff) = (-1, Vec::new());
        (config.max_ack_pending, config.rate_limit) = (MAX_ACK_PENDING, 0);
        (config.headers_only, config.inactive_threshold) = (false, Duration::ZERO);
        (config.max_batch, config.max_bytes, config.max_expires) = (0, 0, Duration::ZERO);
        (config.priority_policy, config.priority_groups) = (PriorityPolicy::None, Vec::new());
        config.priority_timeout = Duration::ZERO;
        config
    }

    /// `false` when the server's rules do not let it be changed.
    async fn set_right(
        &self,
        bus: &Bus,
        found: &Info,
        drift: &Drift,
    ) -> Result<bool, TopologyError> {
        warn!(group = self.name, changes = ?drift.changes, "setting the queue group's consumer right");
        let mut config = self.right(&found.config);
        config.pause_until = None;
        match self.ask_for(bus, config, "update").await? {
            Response::Ok(_) => Ok(true),
            Response::Err { error } if error.error_code() == ErrorCode::CONSUMER_CREATE => {
                Ok(false)
            }
            Response::Err { error } => Err(self.refused(&error)),
        }
    }

    async fn make_again(
        &mut self,
        bus: &Bus,
        found: &Info,
        from: Option<(OffsetDateTime, u64)>,
    ) -> Result<(), TopologyError> {
        let subject = format!("CONSUMER.DELETE.{}.{}", self.stream.name, self.name);
        let deleted: Response<serde_json::Value> =
            bounded(bus.jetstream.request(subject, &json!({}))).await?.map_err(away)?;
        match deleted {
            Response::Err { error } if error.error_code() != ErrorCode::CONSUMER_NOT_FOUND => {
                return Err(self.refused(&error));
            }
            _ => {}
        }
        self.make(bus, Some(&found.config), from).await
    }

    async fn make(
        &mut self,
        bus: &Bus,
        found: Option<&Config>,
        from: Option<(OffsetDateTime, u64)>,
    ) -> Result<(), TopologyError> {
        let kept = found.map_or_else(Config::default, |found| Config {
            description: found.description.clone(),
            metadata: found.metadata.clone(),
            num_replicas: found.num_replicas,
            memory_storage: found.memory_storage,
            sample_frequency: found.sample_frequency,
            ..Config::default()
        });
        let mut config = Config { durable_name: Some(self.name.to_owned()), ..self.right(&kept) };
        config.metadata.remove(FROM);
        let from = from.filter(|(_, sequence)| *sequence > 0);
        if let Some((_, sequence)) = from {
            config.deliver_policy = DeliverPolicy::ByStartSequence { start_sequence: sequence + 1 };
            config.metadata.insert(FROM.to_owned(), (sequence + 1).to_string());
        }
        // Several members may get here at once. What the first one made serves the others, too.
        match self.ask_for(bus, config, "create").await? {
            Response::Ok(_) => {}
            Response::Err { error } if is_there(&error) => return Err(away(error)),
            Response::Err { error } => return Err(self.refused(&error)),
        }
        let acknowledged = from.map(|(_, sequence)| sequence);
        info!(group = self.name, stream = self.stream.name, acknowledged, "made the queue group");
        self.still_of(bus, from).await
    }

    /// A stream that was made anew in the meantime has other events at its sequences.
    async fn still_of(
        &mut self,
        bus: &Bus,
        from: Option<(OffsetDateTime, u64)>,
    ) -> Result<(), TopologyError> {
        let Some((created, sequence)) = from else { return Ok(()) };
        let stream = bounded(bus.jetstream.get_stream(self.stream.name)).await?.map_err(away)?;
        let state = StreamState::from(stream.cached_info());
        if state.created == created && state.last_sequence >= sequence {
            self.acknowledged = from;
            return Ok(());
        }
        self.acknowledged = None;
        let subject = format!("CONSUMER.DELETE.{}.{}", self.stream.name, self.name);
        let _: serde_json::Value =
            bounded(bus.jetstream.request(subject, &json!({}))).await?.map_err(away)?;
        Err(away("the stream was made anew"))
    }

    async fn ask_for(
        &self,
        bus: &Bus,
        config: Config,
        action: &str,
    ) -> Result<Response<Info>, TopologyError> {
        let subject = format!("CONSUMER.CREATE.{}.{}", self.stream.name, self.name);
        let asked = json!({ "stream_name": self.stream.name, "config": config, "action": action });
        bounded(bus.jetstream.request(subject, &asked)).await?.map_err(away)
    }

    /// A pause holds up events for ever, for all that the server knows of an end.
    async fn resume(&self, bus: &Bus) -> Result<(), TopologyError> {
        warn!(group = self.name, "the queue group's consumer was paused, resuming it");
        let subject = format!("CONSUMER.PAUSE.{}.{}", self.stream.name, self.name);
        let resumed: Response<serde_json::Value> =
            bounded(bus.jetstream.request(subject, &json!({}))).await?.map_err(away)?;
        match resumed {
            Response::Ok(_) => Ok(()),
            Response::Err { error } => Err(self.refused(&error)),
        }
    }

    /// What the server says of a request that it understood and does not follow.
    fn refused(&self, error: &jetstream::Error) -> TopologyError {
        if error.code() != 400 {
            return away(error);
        }
        TopologyError::Drift {
            what: format!("consumer {} of stream {}", self.name, self.stream.name),
            why: format!("the server refuses it as it must be: {error}"),
        }
    }
}

fn is_there(error: &jetstream::Error) -> bool {
    let code = error.error_code();
    [ErrorCode::CONSUMER_ALREADY_EXISTS, ErrorCode::CONSUMER_NAME_EXIST].contains(&code)
}

/// The subjects that a consumer takes, sorted. None are all.
fn filter(found: &Config) -> Vec<String> {
    let mut subjects = found.filter_subjects.clone();
    if !found.filter_subject.is_empty() {
        subjects.push(found.filter_subject.clone());
    }
    subjects.sort();
    subjects
}
