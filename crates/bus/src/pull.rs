//! The pull requests of a queue group's member. A pull knows when its request has ended, so that a
//! member can stop without events in flight to it.
//!
//! The client library's own pulls do not tell: dropping one while the server is sending strands those
//! events until the ack wait has passed.

use std::time::Duration;

use async_nats::{Client, Message, PublishError, StatusCode, SubscribeError, Subscriber};
use futures::StreamExt;
use tokio::time::{Instant, sleep_until};

use crate::{backoff::jittered, connection::Bus, topology::TopologyError};

/// How long the server holds a request that it cannot fill, at most: the longest an idle member takes to stop.
/// Each request has a random time of at least half of that.
///
/// Random, because the server serves the request that has waited longest. Members whose requests end in step
/// would pull in the same order every time, and an event that one of them returns would always go back to it.
const EXPIRES: Duration = Duration::from_secs(2);
/// How late the server's answer may be before the request counts as lost.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many requests in a row may be lost before the member subscribes again.
const MAX_SILENCES: u32 = 3;

/// The answer to a request.
#[derive(Debug)]
pub(crate) enum Pulled {
    /// An event.
    Event(Message),
    /// The request has ended: pull again.
    Ended,
    /// Nothing of interest.
    Nothing,
    /// The server has no such consumer, or no JetStream: start a new session.
    Gone(String),
    /// Too many requests in a row were not answered: subscribe again.
    Lost,
}

/// Why a member's session ended. It begins a new one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    /// The stream or the consumer is not as it must be.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// The client could not subscribe.
    #[error("cannot subscribe: {0}")]
    Subscribe(#[from] async_nats::SubscribeError),
    /// The client could not send a request.
    #[error("cannot pull: {0}")]
    Publish(#[from] async_nats::PublishError),
}

/// A member's subscription to the answers of its pulls.
pub(crate) struct Pull {
    client: Client,
    subject: String,
    inbox: String,
    messages: Subscriber,
    /// The number of the latest request. Each has a reply subject of its own, where its end arrives.
    request: u64,
    /// How many requests in a row were not answered in time.
    silences: u32,
    ack_wait: Duration,
    outstanding: usize,
    deadline: Instant,
    /// Set when a request is given up, until the end of a later one arrives: an event may belong to either,
    /// so the number still on the way is unknown. At this time at the latest, what was sent before has been
    /// redelivered to another member.
    doubtful_until: Option<Instant>,
}

impl Pull {
    pub(crate) async fn open(bus: &Bus, stream: &str, group: &str) -> Result<Self, SubscribeError> {
        let (client, api) = (&bus.client, bus.api_of(stream));
        let inbox = client.new_inbox();
        Ok(Self {
            client: client.clone(),
            subject: format!("{api}.CONSUMER.MSG.NEXT.{stream}.{group}"),
            ack_wait: bus.options.ack_wait,
            messages: client.subscribe(format!("{inbox}.*")).await?,
            inbox,
            request: 0,
            silences: 0,
            outstanding: 0,
            deadline: Instant::now(),
            doubtful_until: None,
        })
    }

    /// Whether no request is open.
    pub(crate) fn is_idle(&self) -> bool {
        self.outstanding == 0
    }

    /// Whether nothing is on its way here: a member that stops listening now strands no event.
    pub(crate) fn is_quiet(&self) -> bool {
        self.is_idle() && self.doubtful_until.is_none_or(|until| Instant::now() >= until)
    }

    /// Asks for up to `batch` events. Only when idle: with one request at a time, its end is known.
    pub(crate) async fn ask(&mut self, batch: usize) -> Result<(), PublishError> {
        debug_assert!(self.is_idle());
        let expires = jittered(EXPIRES).as_nanos();
        let payload = format!(r#"{{"batch":{batch},"expires":{expires}}}"#);
        self.request += 1;
        self.client.publish_with_reply(self.subject.clone(), self.reply(), payload.into()).await?;
        self.outstanding = batch;
        self.deadline = Instant::now() + EXPIRES + PATIENCE;
        Ok(())
    }

    /// The reply subject of the latest request.
    fn reply(&self) -> String {
        format!("{}.{}", self.inbox, self.request)
    }

    /// The next answer. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Pulled {
        let deadline = match self.doubtful_until {
            Some(until) if self.is_idle() => until,
            _ => self.deadline,
        };
        let message = tokio::select! {
            biased;
            message = self.messages.next() => message,
            () = sleep_until(deadline) => return self.late(),
        };
        let Some(message) = message else {
            (self.outstanding, self.doubtful_until) = (0, None);
            return Pulled::Lost;
        };
        self.silences = 0;
        let Some(status) = message.status else {
            self.outstanding = self.outstanding.saturating_sub(1);
            self.deadline = Instant::now() + EXPIRES + PATIENCE;
            return Pulled::Event(message);
        };
        if message.subject.as_str() != self.reply() {
            // The end of a request that was given up.
            return Pulled::Nothing;
        }
        (self.outstanding, self.doubtful_until) = (0, None);
        let why = message.description.unwrap_or_default();
        match status {
            StatusCode::NO_RESPONDERS => Pulled::Gone("no consumer answers".to_owned()),
            StatusCode::REQUEST_TERMINATED if is_permanent(&why) => Pulled::Gone(why.to_string()),
            // 408 expired, 404 no messages, 409 server shutdown or leader change.
            _ => Pulled::Ended,
        }
    }

    /// A busy server answers late. The request is given up, but the subscription stays, so that events
    /// still on the way are not stranded until the ack wait.
    fn late(&mut self) -> Pulled {
        if self.is_idle() {
            self.doubtful_until = None;
            return Pulled::Nothing;
        }
        self.outstanding = 0;
        self.doubtful_until = Some(Instant::now() + self.ack_wait);
        self.silences += 1;
        if self.silences < MAX_SILENCES { Pulled::Ended } else { Pulled::Lost }
    }
}

fn is_permanent(description: &str) -> bool {
    description.eq_ignore_ascii_case("consumer deleted")
        || description.eq_ignore_ascii_case("consumer is push based")
        || description.to_ascii_lowercase().starts_with("bad request")
        // An edit limited what a request may ask for. The same request would be refused again.
        || description.to_ascii_lowercase().starts_with("exceeded max")
}
