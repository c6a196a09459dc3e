//! A queue group's consumer: created if missing, corrected if edited, and recreated if it has skipped events or
//! the server does not let a setting be changed. [`config`](super::config) has the table.
//!
//! A recreated consumer starts after what the group had acknowledged when this member last saw it correct, or at
//! the start of the stream if it never did. The inbox recognizes events that took effect.
//!
//! The metadata holds the subjects that some release wants, and where the bus made the consumer
//! start. An older release that runs alongside a newer one keeps the newer one's subjects in the
//! filter.

use async_nats::jetstream::{
    self, ErrorCode,
    consumer::{Config, DeliverPolicy, Info},
    context::RequestErrorKind,
    response::Response,
};
use serde_json::json;
use time::OffsetDateTime;
use tracing::{info, warn};

use super::{
    StreamState, TopologyError, away, bounded,
    config::{Drift, FROM, corrected},
};
use crate::{connection::Bus, event::Stream};

/// A queue group, as one of its members ensures it.
#[derive(Debug)]
pub(crate) struct Group {
    name: &'static str,
    stream: &'static Stream,
    subjects: &'static [&'static str],
    /// What the group had acknowledged when its consumer was last seen correct, and the stream's creation time.
    acknowledged: Option<(OffsetDateTime, u64)>,
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

    /// Forgets what the group had acknowledged: after a reconnect, the server may have an older store, whose
    /// sequences are of other events.
    pub(crate) fn forget(&mut self) {
        self.acknowledged = None;
    }

    /// Ensures the group's consumer. `state` is the stream's current state. Without it, a recreated consumer
    /// starts at the start of the stream.
    ///
    /// # Errors
    /// [`TopologyError`].
    pub(crate) async fn ensure(
        &mut self,
        bus: &Bus,
        state: Option<StreamState>,
    ) -> Result<(), TopologyError> {
        self.acknowledged = self.acknowledged.filter(|(created, sequence)| {
            state.is_some_and(|s| s.created == *created && s.last_sequence >= *sequence)
        });
        let Some(found) = self.find(bus).await? else {
            return self.create(bus, None, self.acknowledged).await;
        };
        let drift = Drift::of(&found.config, self.subjects, &bus.options);
        let own = state.map(|state| (state.created, found.ack_floor.stream_sequence));
        if !drift.passed_over && !drift.fixed {
            if !drift.changes.is_empty() && !self.correct(bus, &found, &drift).await? {
                warn!(
                    group = self.name,
                    "the server does not let the consumer be changed, recreating it"
                );
                return self.recreate(bus, &found, own).await;
            }
            if found.paused {
                self.resume(bus).await?;
            }
            self.acknowledged = own;
            return Ok(());
        }
        warn!(group = self.name, changes = ?drift.changes, "recreating the queue group's consumer");
        let from = if drift.passed_over { self.acknowledged } else { own };
        self.recreate(bus, &found, from).await
    }

    /// Checks that the group's consumer exists, which its provisioner creates.
    ///
    /// # Errors
    /// [`TopologyError::Missing`] if it does not; [`TopologyError::Away`].
    pub(crate) async fn is_provided(&self, bus: &Bus) -> Result<(), TopologyError> {
        let missing = |why: &str| TopologyError::Missing {
            what: format!("queue group {} of stream {}", self.name, self.stream.name),
            why: why.to_owned(),
        };
        match self.ask_of(bus).await? {
            Some(Response::Ok(_)) => Ok(()),
            // The consumer or its stream does not exist.
            Some(Response::Err { error }) if error.code() == 404 => {
                Err(missing("its provisioner has to create it"))
            }
            Some(Response::Err { error }) => Err(away(error)),
            None => Err(missing("no responders for that stream; is it exported to this account?")),
        }
    }

    /// `None` if nobody answers for that stream.
    async fn ask_of(&self, bus: &Bus) -> Result<Option<Response<Info>>, TopologyError> {
        let subject = format!("CONSUMER.INFO.{}.{}", self.stream.name, self.name);
        let jetstream = bus.jetstream_of(self.stream.name);
        match bounded(async { jetstream.request(subject, &json!({})).await }).await? {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if error.kind() == RequestErrorKind::NoResponders => Ok(None),
            Err(error) => Err(away(error)),
        }
    }

    async fn find(&self, bus: &Bus) -> Result<Option<Info>, TopologyError> {
        match self.ask_of(bus).await? {
            Some(Response::Ok(info)) => Ok(Some(info)),
            Some(Response::Err { error })
                if error.error_code() == ErrorCode::CONSUMER_NOT_FOUND =>
            {
                Ok(None)
            }
            Some(Response::Err { error }) => Err(away(error)),
            None => Err(away(RequestErrorKind::NoResponders)),
        }
    }

    /// `false` if the server does not let it be changed.
    async fn correct(&self, bus: &Bus, found: &Info, drift: &Drift) -> Result<bool, TopologyError> {
        warn!(group = self.name, changes = ?drift.changes, "correcting the queue group's consumer");
        let mut config = corrected(&found.config, self.subjects, &bus.options);
        config.pause_until = None;
        match self.ask_for(bus, config, "update").await? {
            Response::Ok(_) => Ok(true),
            Response::Err { error } if error.error_code() == ErrorCode::CONSUMER_CREATE => {
                Ok(false)
            }
            Response::Err { error } => Err(self.refused(&error)),
        }
    }

    async fn recreate(
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
        self.create(bus, Some(&found.config), from).await
    }

    async fn create(
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
        let mut config = Config {
            durable_name: Some(self.name.to_owned()),
            ..corrected(&kept, self.subjects, &bus.options)
        };
        config.metadata.remove(FROM);
        let from = from.filter(|(_, sequence)| *sequence > 0);
        if let Some((_, sequence)) = from {
            config.deliver_policy = DeliverPolicy::ByStartSequence { start_sequence: sequence + 1 };
            config.metadata.insert(FROM.to_owned(), (sequence + 1).to_string());
        }
        // Several members may do so at once. The first one's consumer serves all.
        match self.ask_for(bus, config, "create").await? {
            Response::Ok(_) => {}
            Response::Err { error } if already_exists(&error) => return Err(away(error)),
            Response::Err { error } => return Err(self.refused(&error)),
        }
        let acknowledged = from.map(|(_, sequence)| sequence);
        info!(
            group = self.name,
            stream = self.stream.name,
            acknowledged,
            "created the queue group"
        );
        self.verify_same_stream(bus, from).await
    }

    /// Deletes the consumer if the stream was recreated meanwhile: its sequences are of other events.
    async fn verify_same_stream(
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
        Err(away("the stream was recreated"))
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

    /// A pause may never end.
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

    /// The error for a request that the server rejected.
    fn refused(&self, error: &jetstream::Error) -> TopologyError {
        if error.code() != 400 {
            return away(error);
        }
        TopologyError::Drift {
            what: format!("consumer {} of stream {}", self.name, self.stream.name),
            why: format!("the server rejects its settings: {error}"),
        }
    }
}

fn already_exists(error: &jetstream::Error) -> bool {
    let code = error.error_code();
    [ErrorCode::CONSUMER_ALREADY_EXISTS, ErrorCode::CONSUMER_NAME_EXIST].contains(&code)
}
