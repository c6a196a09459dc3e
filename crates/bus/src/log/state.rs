//! The state of one stream's relay, which its parts share.

use std::time::Duration;

use tokio::{sync::watch, time::Instant};

use super::{
    cursor::Cursor,
    error::RelayError,
    publish::Publisher,
    ranges::Ranges,
    session::{Session, bounded},
    wake::Woken,
};
use crate::{
    backoff::{Backoff, RETRY},
    connection::Bus,
    event::Stream,
    outage::Failing,
    pool::Pool,
    topology::Refusal,
};

/// The relay of one stream.
#[derive(Debug)]
pub(crate) struct StreamRelay {
    pub(super) bus: Bus,
    pub(super) pool: Pool,
    pub(super) stream: &'static Stream,
    pub(super) wake: Woken,
    /// The session with the lock, while it is this relay's turn.
    pub(super) session: Option<Session>,
    pub(super) cursor: Cursor,
    pub(super) ranges: Ranges,
    /// Set once the stream is verified.
    pub(super) publisher: Option<Publisher>,
    /// The groups that the stream has had.
    pub(super) groups: Vec<String>,
    pub(super) refusal: Refusal,
    pub(super) remade: Remade,
    /// Grows while relaying fails. Starts over after a pass without a failure.
    pub(super) backoff: Backoff,
    pub(super) failing: Failing,
    /// Whether the last confirmed message was found at the last check.
    pub(super) last_seen: bool,
    /// Whether ranges may have to be republished.
    pub(super) lost: bool,
    /// How many events were republished since that was last logged.
    pub(super) refilled: u64,
}

impl StreamRelay {
    /// A relay that has not had its turn.
    pub(crate) fn new(
        bus: Bus,
        pool: Pool,
        stream: &'static Stream,
        wake: watch::Receiver<()>,
    ) -> Self {
        Self {
            bus,
            pool,
            stream,
            wake: Woken::by(wake),
            session: None,
            cursor: Cursor::default(),
            ranges: Ranges::default(),
            publisher: None,
            groups: Vec::new(),
            refusal: Refusal::of(stream.name),
            remade: Remade::default(),
            backoff: RETRY,
            failing: Failing::default(),
            last_seen: false,
            lost: true,
            refilled: 0,
        }
    }

    /// The session with the lock.
    pub(super) fn session(&mut self) -> Result<&mut Session, RelayError> {
        self.session.as_mut().ok_or(RelayError::NoTurn)
    }

    /// Writes the cursor.
    pub(super) async fn store_cursor(&mut self) -> Result<(), RelayError> {
        let session = self.session.as_mut().ok_or(RelayError::NoTurn)?;
        let stored = self.cursor.store(&mut session.connection, self.stream.name);
        if bounded(stored).await? { Ok(()) } else { Err(RelayError::Overtaken) }
    }
}

/// How long a recreated stream must last before it is recreated once more. The time doubles up to
/// [`LONGEST_LIFETIME`], because each time the whole log is republished.
const SHORTEST_LIFETIME: Duration = Duration::from_secs(60);
/// The longest such time.
const LONGEST_LIFETIME: Duration = Duration::from_secs(3_600);

/// When this process last recreated the stream.
#[derive(Debug)]
pub(super) struct Remade {
    at: Option<Instant>,
    lasts: Duration,
}

impl Default for Remade {
    fn default() -> Self {
        Self { at: None, lasts: SHORTEST_LIFETIME }
    }
}

impl Remade {
    /// How long to wait before it may be recreated again.
    pub(super) fn wait(&self) -> Option<Duration> {
        self.at.and_then(|at| self.lasts.checked_sub(at.elapsed()))
    }

    /// Records that it was recreated now.
    pub(super) fn now(&mut self) {
        let soon = self.at.is_some_and(|at| at.elapsed() < 2 * self.lasts);
        self.lasts = if soon { (2 * self.lasts).min(LONGEST_LIFETIME) } else { SHORTEST_LIFETIME };
        self.at = Some(Instant::now());
    }
}
