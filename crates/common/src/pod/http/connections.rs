//! The connections of a server: how many there are, what each waits for and until when, and which one
//! goes when there is no room for another.
//!
//! A connection is either *at work* (its request has come whole, and a handler has it), which is bounded
//! by the middleware and never cut short; or it *waits for its client*: for a request, the rest of one, or for
//! the answer to be taken. Whoever makes a server wait may be told to go. Those who never got on with it
//! go first, the oldest of them; connections that were kept alive between requests go last. So a client
//! that gets on with its request is served, however many others do not.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};

use super::{
    phase::{Deadlines, End, Phase},
    place::Place,
    table::Table,
};

/// The time that a client has before its connection may go to make room for another: it may have sent its
/// request already, and this process may be too busy to have seen it.
pub(super) const FAIR: Duration = Duration::from_millis(250);
/// How many bytes of requests that have not come whole, and of answers that were not taken, all clients
/// together may have the process hold. About a hundred and thirty connections in the midst of a small
/// request or answer.
pub(super) const MAX_HELD: usize = 8 * 1024 * 1024;

/// All connections of one server.
#[derive(Debug)]
pub(super) struct Connections {
    table: Mutex<Table>,
    max: usize,
    deadlines: Deadlines,
    closing: AtomicBool,
}

impl Connections {
    pub(super) fn new(max: usize, deadlines: Deadlines) -> Arc<Self> {
        Arc::new(Self { table: Mutex::default(), max, deadlines, closing: AtomicBool::new(false) })
    }

    /// Whether there is room for one more, if need be because another is ended for it. There will be in a
    /// moment otherwise.
    pub(super) fn has_room(&self) -> bool {
        let mut table = self.table();
        table.len() < self.max || table.make_room(Instant::now())
    }

    /// Takes one more. Returns its place and what tells of its end.
    pub(super) fn admit(self: &Arc<Self>) -> (Place, oneshot::Receiver<End>) {
        let (id, ended) = self.table().admit();
        (Place::new(id, self.clone()), ended)
    }

    /// Ends the one that can best be spared, because the process has no room for another.
    pub(super) fn make_room(&self) {
        self.table().make_room(Instant::now());
    }

    /// Ends those whose clients have let a deadline pass.
    pub(super) fn end_late(&self, now: Instant) {
        let deadlines = self.deadlines;
        self.table().end_where(
            |phase, since| {
                phase.limit(&deadlines).is_some_and(|limit| now.duration_since(since) >= limit)
            },
            |phase| End::Late { half_head: phase == Phase::Head },
        );
    }

    /// From now on every answer says that its connection is to be closed.
    pub(super) fn close_after_answers(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    pub(super) fn close_after_answer(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Ends those on which nothing has come for this long, and nothing is under way.
    pub(super) fn end_idle(&self, quiet: Duration) {
        let now = Instant::now();
        self.table().end_where(
            |phase, since| {
                matches!(phase, Phase::Fresh | Phase::Idle) && now.duration_since(since) >= quiet
            },
            |_| End::Stop,
        );
    }

    /// Moves a connection on, see [`Table::enter`].
    pub(super) fn enter(&self, id: u64, to: impl FnOnce(Phase) -> Option<(Phase, usize)>) {
        self.table().enter(id, to);
    }

    /// Notes what a connection holds, see [`Table::hold`].
    pub(super) fn hold(&self, id: u64, bytes: usize) {
        self.table().hold(id, bytes);
    }

    /// A connection has ended.
    pub(super) fn leave(&self, id: u64) {
        self.table().leave(id);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
