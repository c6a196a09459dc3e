//! One connection's place among all: it is told of every step, and says how the connection stands.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use super::{connections::Connections, phase::Phase};

/// What a connection costs while hyper has it, in bytes: its head, buffers to read into and to write from,
/// each of 8 KiB or more, the future that works on it, and what the allocator loses. Measured: 95 kB with a
/// body of 16 kB.
pub(super) const CONVERSATION: usize = 64 * 1024;

/// Given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) id: u64,
    pub(super) connections: Arc<Connections>,
    /// The request has come to its end.
    whole: AtomicBool,
    /// The connection is kept after the answer.
    kept: AtomicBool,
    /// The whole answer was handed over to be written.
    answered: AtomicBool,
    /// The answer is written, and the next request has not begun.
    idle: AtomicBool,
}

impl Place {
    pub(super) fn new(id: u64, connections: Arc<Connections>) -> Self {
        let [whole, kept, answered, idle] = [const { AtomicBool::new(false) }; 4];
        Self { id, connections, whole, kept, answered, idle }
    }

    /// A head has begun to come, and takes so many bytes.
    pub(super) fn receiving(&self, bytes: usize) {
        self.connections.enter(self.id, |phase| match phase {
            Phase::Fresh | Phase::Idle => Some((Phase::Head, bytes)),
            _ => None,
        });
        self.connections.hold(self.id, bytes);
    }

    /// A request's head has come.
    pub(super) fn begun(&self, has_body: bool) {
        self.answered.store(false, Relaxed);
        self.idle.store(false, Relaxed);
        self.whole.store(!has_body, Relaxed);
        let next = if has_body { (Phase::Body, CONVERSATION) } else { (Phase::AtWork, 0) };
        self.connections.enter(self.id, |_| Some(next));
    }

    /// So many bytes of its body have come.
    pub(super) fn came(&self, bytes: usize) {
        self.connections.hold(self.id, CONVERSATION + bytes);
    }

    /// All of its body has come.
    pub(super) fn is_whole(&self) -> bool {
        self.whole.load(Relaxed)
    }

    /// Its body has come, or else nobody wants the rest.
    pub(super) fn complete(&self, whole: bool) {
        self.whole.store(whole, Relaxed);
        self.connections
            .enter(self.id, |phase| (phase == Phase::Body).then_some((Phase::AtWork, 0)));
    }

    /// There is an answer of so many bytes, after which the connection is kept or not.
    pub(super) fn answering(&self, bytes: usize, kept: bool) {
        self.kept.store(kept, Relaxed);
        let bytes = bytes.saturating_add(CONVERSATION);
        self.connections.enter(self.id, |_| Some((Phase::Answer, bytes)));
    }

    /// All of the answer was handed over.
    pub(super) fn answered(&self) {
        self.answered.store(true, Relaxed);
    }

    /// What was handed over is written.
    pub(super) fn flushed(&self) {
        if self.answered.swap(false, Relaxed) && self.kept.load(Relaxed) {
            self.idle.store(true, Relaxed);
            self.connections
                .enter(self.id, |phase| (phase == Phase::Answer).then_some((Phase::Idle, 0)));
        }
    }

    /// Between two requests: hyper holds nothing but what may have come of the next one.
    pub(super) fn is_idle(&self) -> bool {
        self.idle.load(Relaxed)
    }

    /// This side is closed.
    pub(super) fn closing(&self) {
        self.connections.enter(self.id, |phase| {
            (phase != Phase::Closing).then_some((Phase::Closing, CONVERSATION))
        });
    }

    /// The server stops: every answer says that its connection will be closed.
    pub(super) fn close_after_answer(&self) -> bool {
        self.connections.close_after_answer()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.leave(self.id);
    }
}
