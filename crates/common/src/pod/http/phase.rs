//! The phases of a connection, how long each may last, and why a connection is ended.

use std::time::Duration;

/// How long a connection may wait for its client, in each phase.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// For the head of a request, from its first byte; on a new connection, also for that byte.
    pub head: Duration,
    /// For the client to read the whole answer.
    pub answer: Duration,
    /// For the next request on a keep-alive connection.
    pub idle: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            // More than a bad mobile link needs for a few kilobytes.
            head: Duration::from_secs(10),
            // The largest answer, the page of `/docs`, at 20 kB/s.
            answer: Duration::from_secs(30),
            // Longer than the 60 to 90 s after which clients and proxies close an idle connection.
            // The client must close first, because a request may be on its way when the server
            // closes.
            idle: Duration::from_secs(120),
        }
    }
}

/// How long a client has to close its side after the server has closed.
const LINGER: Duration = Duration::from_secs(1);
/// The phase of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing has arrived yet.
    Fresh,
    /// Part of a request's head has arrived.
    Head,
    /// The head has arrived, and a body is to follow.
    Body,
    /// A handler has the request.
    AtWork,
    /// The client still has to read an answer.
    Answer,
    /// Kept alive between two requests.
    Idle,
    /// The server has closed its side.
    Closing,
}

impl Phase {
    /// The class in which connections are closed to make room; `None` for a connection that stays.
    pub(super) fn class(self) -> Option<Class> {
        match self {
            Self::Fresh => Some(Class::Silent),
            Self::Head | Self::Body | Self::Closing => Some(Class::Unfinished),
            Self::Answer => Some(Class::Unread),
            Self::Idle => Some(Class::Idle),
            Self::AtWork => None,
        }
    }

    /// How long the phase may last; `None` if the middleware bounds it.
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
    /// Nothing has arrived, and nothing is held.
    Silent,
    Unfinished,
    Unread,
    Idle,
}

/// Why the server ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Its client missed a deadline. With half a head, it is answered 408.
    Late { half_head: bool },
    /// To make room. With half a request, it is answered 503.
    Room { half_request: bool },
    /// The server is stopping.
    Stop,
}
