//! A connection's place among all. The connection reports every step to it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use super::{connections::Connections, phase::Phase};

/// The cost of a connection while hyper owns it, in bytes: its head, read and write buffers of at
/// least 8 KiB each, the future that serves it, and the allocator's overhead. Measured: 95 kB with
/// a body of 16 kB.
pub(super) const CONVERSATION: usize = 64 * 1024;

/// Released when dropped.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) id: u64,
    pub(super) connections: Arc<Connections>,
    /// The request has arrived completely.
    whole: AtomicBool,
    /// The connection stays open after the answer.
    kept: AtomicBool,
    /// The whole answer was handed over for writing.
    answered: AtomicBool,
    /// The answer is written, and the next request has not begun.
    idle: AtomicBool,
}

impl Place {
    pub(super) fn new(id: u64, connections: Arc<Connections>) -> Self {
        let [whole, kept, answered, idle] = [const { AtomicBool::new(false) }; 4];
        Self { id, connections, whole, kept, answered, idle }
    }

    /// Part of a head has arrived, in a buffer of this size.
    pub(super) fn receiving(&self, bytes: usize) {
        self.connections.enter(self.id, |phase| match phase {
            Phase::Fresh | Phase::Idle => Some((Phase::Head, bytes)),
            _ => None,
        });
        self.connections.hold(self.id, bytes);
    }

    /// A request's head has arrived.
    pub(super) fn begun(&self, has_body: bool) {
        self.answered.store(false, Relaxed);
        self.idle.store(false, Relaxed);
        self.whole.store(!has_body, Relaxed);
        let next = if has_body { (Phase::Body, CONVERSATION) } else { (Phase::AtWork, 0) };
        self.connections.enter(self.id, |_| Some(next));
    }

    /// This many bytes of the body have arrived.
    pub(super) fn came(&self, bytes: usize) {
        self.connections.hold(self.id, CONVERSATION + bytes);
    }

    /// Returns whether the whole body has arrived.
    pub(super) fn is_whole(&self) -> bool {
        self.whole.load(Relaxed)
    }

    /// The whole body has arrived, or the rest of it is not wanted.
    pub(super) fn complete(&self, whole: bool) {
        self.whole.store(whole, Relaxed);
        self.connections
            .enter(self.id, |phase| (phase == Phase::Body).then_some((Phase::AtWork, 0)));
    }

    /// There is an answer of this many bytes; `kept` tells whether the connection stays open after
    /// it.
    pub(super) fn answering(&self, bytes: usize, kept: bool) {
        self.kept.store(kept, Relaxed);
        let bytes = bytes.saturating_add(CONVERSATION);
        self.connections.enter(self.id, |_| Some((Phase::Answer, bytes)));
    }

    /// The whole answer was handed over for writing.
    pub(super) fn answered(&self) {
        self.answered.store(true, Relaxed);
    }

    /// Everything handed over is written.
    pub(super) fn flushed(&self) {
        if self.answered.swap(false, Relaxed) && self.kept.load(Relaxed) {
            self.idle.store(true, Relaxed);
            self.connections
                .enter(self.id, |phase| (phase == Phase::Answer).then_some((Phase::Idle, 0)));
        }
    }

    /// Returns whether the connection is between two requests: hyper holds at most the beginning of
    /// the next one.
    pub(super) fn is_idle(&self) -> bool {
        self.idle.load(Relaxed)
    }

    /// The server has closed its side.
    pub(super) fn closing(&self) {
        self.connections.enter(self.id, |phase| {
            (phase != Phase::Closing).then_some((Phase::Closing, CONVERSATION))
        });
    }

    /// Returns whether the server stops, so that every answer must close its connection.
    pub(super) fn close_after_answer(&self) -> bool {
        self.connections.close_after_answer()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.leave(self.id);
    }
}
