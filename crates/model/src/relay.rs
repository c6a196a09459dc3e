//! A relay, step by step. Anything may happen between two steps.

use crate::{
    bounds::{Bounds, Mistake},
    compare::Seen,
    page::{Findings, Page, Source},
    stream::Sequence,
    system::System,
};

/// The state of a relay.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Relay {
    /// It has no session, or does not hold the lock, and does nothing.
    Waits,
    /// It holds the lock, and knows nothing about the stream.
    Begins,
    /// It has read what the group has acknowledged, and reads the stream's state next.
    Asks {
        /// What the group has acknowledged.
        floor: Sequence,
    },
    /// It has read the stream's state, and checks messages next.
    Compares {
        /// What the group had acknowledged.
        floor: Sequence,
        /// The stream's state.
        seen: Seen,
    },
    /// It has verified the stream.
    Ready {
        /// The creation time that it verified.
        created: u8,
    },
    /// It publishes a page.
    Publishes(Page),
    /// Every event of the page is acknowledged. It checks the stream next.
    Looks(Page),
    /// It is about to commit.
    Commits(Page, Findings),
    /// It has committed, and has something left to write. Only with a mistake.
    WritesLater {
        /// The creation time that it verified.
        created: u8,
        /// Ranges to mark.
        lost: Vec<u8>,
    },
}

impl System {
    /// Performs a relay's next step.
    pub(crate) fn relay(&mut self, bounds: &Bounds, relay: usize) {
        let has_lock = self.lock == Some(relay);
        let may_write = has_lock || bounds.has(Mistake::CommitsWithoutTheLock);
        let phase = std::mem::replace(&mut self.relays[relay], Relay::Waits);
        self.relays[relay] = match phase {
            Relay::Waits if self.lock.is_none() => {
                self.lock = Some(relay);
                self.sessions += 1;
                Relay::Begins
            }
            Relay::Begins => Relay::Asks { floor: self.floor(bounds) },
            Relay::Asks { floor } => Relay::Compares { floor, seen: Seen::of(&self.stream) },
            Relay::Compares { floor, seen } => {
                let floor = if bounds.has(Mistake::ReadsTheGroupsLast) {
                    self.floor(bounds)
                } else {
                    floor
                };
                self.ledger.compare(bounds, &self.stream, &seen, floor);
                Relay::Ready { created: seen.created }
            }
            Relay::Ready { created } => {
                let by = self.sessions;
                let source = Source { bounds, transactions: &self.transactions, created, by };
                source.take_new(&mut self.ledger).map_or(Relay::Ready { created }, Relay::Publishes)
            }
            Relay::Publishes(mut page) => {
                if page.publish(bounds, &mut self.stream) {
                    Relay::Looks(page)
                } else {
                    Relay::Publishes(page)
                }
            }
            Relay::Looks(page) if may_write => {
                let found = page.look(bounds, &self.ledger, &self.stream);
                Relay::Commits(page, found)
            }
            Relay::Commits(page, found) if may_write => {
                page.commit(bounds, &mut self.ledger, found, self.stream.created)
            }
            Relay::WritesLater { created, lost } => {
                self.ledger.mark(&lost);
                self.ledger.set_last();
                Relay::Ready { created }
            }
            // It cannot continue without its session.
            Relay::Waits | Relay::Looks(_) | Relay::Commits(..) => Relay::Waits,
        };
        if !has_lock
            && matches!(self.relays[relay], Relay::Ready { .. } | Relay::WritesLater { .. })
        {
            self.relays[relay] = Relay::Waits;
        }
    }
}
