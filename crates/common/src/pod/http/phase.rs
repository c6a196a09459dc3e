//! Where a connection stands, how long it may stay there, and why it is ended.

use std::time::Duration;

/// How long a connection may wait for its client, by what it waits for.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// For the head of a request, from its first byte; and for that byte on a new connection.
    pub head: Duration,
    /// For an answer to be taken, whole.
    pub answer: Duration,
    /// For the next request on a connection that is kept alive.
    pub idle: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            // Above what a bad mobile link needs for some kilobytes.
            head: Duration::from_secs(10),
            // The largest answer, the page of `/docs`, at 20 kB/s.
            answer: Duration::from_secs(30),
            // Above the 60 to 90 s after which clients and proxies give up an idle connection: who gives
            // it up must not be this side, lest a request is under way to it.
            idle: Duration::from_secs(120),
        }
    }
}

/// How long a client has to close its side after this one has closed its own.
const LINGER: Duration = Duration::from_secs(1);
/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing has come on it yet.
    Fresh,
    /// A request's head has begun to come.
    Head,
    /// The head has come, and a body is to follow.
    Body,
    /// A handler has the request.
    AtWork,
    /// An answer is to be taken.
    Answer,
    /// Kept alive between two requests.
    Idle,
    /// This side is closed.
    Closing,
}

impl Phase {
    /// In which order connections go when there is no room; `None` for one that stays.
    pub(super) fn class(self) -> Option<Class> {
        match self {
            Self::Fresh => Some(Class::Silent),
            Self::Head | Self::Body | Self::Closing => Some(Class::Unfinished),
            Self::Answer => Some(Class::Unread),
            Self::Idle => Some(Class::Idle),
            Self::AtWork => None,
        }
    }

    /// How long it may stay so; `None` where the middleware does that.
    pub(super) fn limit(self, deadlines: &Deadlines) -> Option<Duration> {
        match self {
            Self::Fresh | Self::Head => Some(deadlines.head),
            Self::Answer => Some(deadlines.answer),
            Self::Idle => Some(deadlines.idle),
            Self::Closing => Some(LINGER),
            Self::Body | Self::AtWork => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// Nothing has come yet, and nothing is held.
    Silent,
    Unfinished,
    Unread,
    Idle,
}

/// Why a connection is ended by its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Its client let a deadline pass; with half a head, which is answered 408.
    Late { half_head: bool },
    /// To make room; with half a request, which is answered 503.
    Room { half_request: bool },
    /// The server stops.
    Stop,
}
