//! One pull of a queue group's member: asks for so many events, and knows when the request has
//! ended, so that a member can stop without an event in flight towards it.
//!
//! The client library's own pulls give no such end: dropping one while the server is sending
//! strands those events until the ack wait has passed.

use std::time::Duration;

use async_nats::{Client, Message, StatusCode, Subscriber};
use futures::StreamExt;
use serde::Serialize;
use tokio::time::{Instant, sleep_until};

use crate::topology::ACK_WAIT;

/// How long the server holds a request that it cannot fill, at most; each request has a random time, at least
/// half of that. It is also the longest that an idle member takes to stop.
///
/// Random, because the server serves the request that has waited longest. Members whose requests end in step
/// would ask in the same order every time, and what one of them gives back would come to it again and again.
const EXPIRES: Duration = Duration::from_secs(2);
/// How much later than that the server's word may come before the request counts as lost.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many requests in a row may be lost before the subscription is made anew.
const MAX_SILENCES: u32 = 3;

/// What came of a request.
#[derive(Debug)]
pub(crate) enum Pulled {
    /// An event.
    Event(Message),
    /// The request has ended: ask again.
    Ended,
    /// Nothing of interest.
    Nothing,
    /// The server has no such consumer, or no JetStream.
    Gone(String),
    /// Nothing was heard for too long: ask anew on a fresh subscription.
    Lost,
}

/// A member's subscription to what it asks for.
pub(crate) struct Pull {
    client: Client,
    subject: String,
    inbox: String,
    messages: Subscriber,
    /// The number of the latest request. Each has a subject of its own for its end.
    request: u64,
    /// How many requests in a row were not answered in time.
    silences: u32,
    outstanding: usize,
    deadline: Instant,
    /// After a request that was given up, until the latest one's end is told: what has arrived may be of
    /// either, so nobody knows how many events are still on their way. Until here at most; what was sent
    /// before is with another member by then.
    doubtful_until: Option<Instant>,
}

#[derive(Serialize)]
struct Request {
    batch: usize,
    /// Nanoseconds.
    expires: u128,
}

impl Pull {
    pub(crate) async fn open(
        client: &Client,
        api: &str,
        stream: &str,
        group: &str,
    ) -> anyhow::Result<Self> {
        let inbox = client.new_inbox();
        Ok(Self {
            client: client.clone(),
            subject: format!("{api}.CONSUMER.MSG.NEXT.{stream}.{group}"),
            messages: client.subscribe(format!("{inbox}.*")).await?,
            inbox,
            request: 0,
            silences: 0,
            outstanding: 0,
            deadline: Instant::now(),
            doubtful_until: None,
        })
    }

    /// Whether no request is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.outstanding == 0
    }

    /// Whether nothing is on its way here: whoever stops listening then leaves no event to the ack wait.
    pub(crate) fn is_quiet(&self) -> bool {
        self.is_idle() && self.doubtful_until.is_none_or(|until| Instant::now() >= until)
    }

    /// Asks for up to `batch` events. Only when idle: one request at a time is what makes its end
    /// known.
    pub(crate) async fn ask(&mut self, batch: usize) -> anyhow::Result<()> {
        debug_assert!(self.is_idle());
        let expires = EXPIRES.mul_f64(rand::random_range(0.5..=1.0));
        let request = Request { batch, expires: expires.as_nanos() };
        let payload = serde_json::to_vec(&request)?;
        self.request += 1;
        self.client.publish_with_reply(self.subject.clone(), self.reply(), payload.into()).await?;
        self.outstanding = batch;
        self.deadline = Instant::now() + EXPIRES + PATIENCE;
        Ok(())
    }

    /// Where the latest request's end is told.
    fn reply(&self) -> String {
        format!("{}.{}", self.inbox, self.request)
    }

    /// The next that comes of what was asked. May be dropped and called again.
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
            // The end of a request that was given up for late.
            return Pulled::Nothing;
        }
        (self.outstanding, self.doubtful_until) = (0, None);
        let why = message.description.unwrap_or_default();
        match status {
            StatusCode::NO_RESPONDERS => Pulled::Gone("no consumer answers".to_owned()),
            StatusCode::REQUEST_TERMINATED if is_for_good(&why) => Pulled::Gone(why.to_string()),
            // 408 expired, 404 none there, 409 for a server that stops or a leader that moves.
            _ => Pulled::Ended,
        }
    }

    /// A server that is short of processor time answers late. Whoever stops listening then leaves what
    /// is on its way to the ack wait: so a request is given up, but not what still comes of it.
    fn late(&mut self) -> Pulled {
        if self.is_idle() {
            self.doubtful_until = None;
            return Pulled::Nothing;
        }
        self.outstanding = 0;
        self.doubtful_until = Some(Instant::now() + ACK_WAIT);
        self.silences += 1;
        if self.silences < MAX_SILENCES { Pulled::Ended } else { Pulled::Lost }
    }
}

fn is_for_good(description: &str) -> bool {
    description.eq_ignore_ascii_case("consumer deleted")
        || description.eq_ignore_ascii_case("consumer is push based")
        || description.to_ascii_lowercase().starts_with("bad request")
        // Somebody has limited what a request may ask for. Asked again, it is refused again.
        || description.to_ascii_lowercase().starts_with("exceeded max")
}
