//! The connections of a server: how many there are, what each waits for and until when, and which
//! one is closed to make room for another.
//!
//! A connection is either *at work* or *waiting for its client*. At work means that its request has
//! arrived completely and a handler has it: the middleware bounds this, and it is never cut short.
//! A connection waits for its client to send a request or the rest of one, or to read the answer.
//! Waiting connections may be closed to make room: first those that made no progress with their
//! request, the oldest of them first, and last those that were kept alive between requests. So a
//! client that makes progress with its request is served, however many others do not.

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
    table::Table,
};

/// All connections of a server.
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

    /// Returns whether there is room for one more connection, possibly by closing another. If not,
    /// there will be in a moment.
    pub(super) fn has_room(&self) -> bool {
        let mut table = self.table();
        table.len() < self.max || table.make_room(Instant::now())
    }

    /// Adds a connection. Returns its id and the channel that reports why to end it.
    pub(super) fn admit(&self) -> (u64, oneshot::Receiver<End>) {
        self.table().admit()
    }

    /// Closes a waiting connection, because the process has no room for another.
    pub(super) fn make_room(&self) {
        self.table().make_room(Instant::now());
    }

    /// Closes connections whose clients have missed a deadline.
    pub(super) fn end_late(&self, now: Instant) {
        let deadlines = self.deadlines;
        self.table().end_where(
            |phase, since| {
                phase.limit(&deadlines).is_some_and(|limit| now.duration_since(since) >= limit)
            },
            |phase| End::Late { half_head: phase == Phase::Head },
        );
    }

    /// Makes every answer from now on close its connection.
    pub(super) fn close_after_answers(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    pub(super) fn close_after_answer(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Closes connections that have received nothing for this long and have no request in progress.
    pub(super) fn end_idle(&self, quiet: Duration) {
        let now = Instant::now();
        self.table().end_where(
            |phase, since| {
                matches!(phase, Phase::Fresh | Phase::Idle) && now.duration_since(since) >= quiet
            },
            |_| End::Stop,
        );
    }

    /// Moves a connection to another phase; see [`Table::enter`].
    pub(super) fn enter(&self, id: u64, to: impl FnOnce(Phase) -> Option<(Phase, usize)>) {
        self.table().enter(id, to);
    }

    /// Records how many bytes a connection holds; see [`Table::hold`].
    pub(super) fn hold(&self, id: u64, bytes: usize) {
        self.table().hold(id, bytes);
    }

    /// Removes a connection that has ended.
    pub(super) fn leave(&self, id: u64) {
        self.table().leave(id);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
