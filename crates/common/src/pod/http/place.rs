//! A connection's entry among all connections. The connection reports every step to it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use tokio::sync::oneshot;

use super::{
    connections::Connections,
    phase::{End, Phase},
};

/// The cost of a connection while hyper owns it, in bytes: its head, read and write buffers of at
/// least 8 KiB each, the future that serves it, and the allocator's overhead. Measured: 95 kB with
/// a body of 16 kB.
pub(super) const CONNECTION_BYTES: usize = 64 * 1024;

/// Released when dropped.
#[derive(Debug)]
pub(super) struct Place {
    id: u64,
    connections: Arc<Connections>,
    /// The request has arrived completely.
    complete: AtomicBool,
    /// The connection stays open after the answer.
    keep_alive: AtomicBool,
    /// The whole answer was handed over for writing.
    answered: AtomicBool,
    /// The answer is written, and the next request has not begun.
    idle: AtomicBool,
}

impl Place {
    /// Takes a place for a new connection. Also returns the channel that reports why to end it.
    pub(super) fn take(connections: &Arc<Connections>) -> (Self, oneshot::Receiver<End>) {
        let (id, ended) = connections.admit();
        let [complete, keep_alive, answered, idle] = [const { AtomicBool::new(false) }; 4];
        let connections = connections.clone();
        (Self { id, connections, complete, keep_alive, answered, idle }, ended)
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
        self.complete.store(!has_body, Relaxed);
        let next = if has_body { (Phase::Body, CONNECTION_BYTES) } else { (Phase::AtWork, 0) };
        self.connections.enter(self.id, |_| Some(next));
    }

    /// This many bytes of the body have arrived.
    pub(super) fn body_received(&self, bytes: usize) {
        self.connections.hold(self.id, CONNECTION_BYTES + bytes);
    }

    /// Returns whether the request has arrived completely.
    pub(super) fn is_complete(&self) -> bool {
        self.complete.load(Relaxed)
    }

    /// The whole body has arrived, or the rest of it is not wanted.
    pub(super) fn body_ended(&self, complete: bool) {
        self.complete.store(complete, Relaxed);
        self.connections
            .enter(self.id, |phase| (phase == Phase::Body).then_some((Phase::AtWork, 0)));
    }

    /// There is an answer of this many bytes; `keep_alive` tells whether the connection stays open
    /// after it.
    pub(super) fn answering(&self, bytes: usize, keep_alive: bool) {
        self.keep_alive.store(keep_alive, Relaxed);
        let bytes = bytes.saturating_add(CONNECTION_BYTES);
        self.connections.enter(self.id, |_| Some((Phase::Answer, bytes)));
    }

    /// The whole answer was handed over for writing.
    pub(super) fn answered(&self) {
        self.answered.store(true, Relaxed);
    }

    /// Everything handed over is written.
    pub(super) fn flushed(&self) {
        if self.answered.swap(false, Relaxed) && self.keep_alive.load(Relaxed) {
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
            (phase != Phase::Closing).then_some((Phase::Closing, CONNECTION_BYTES))
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
