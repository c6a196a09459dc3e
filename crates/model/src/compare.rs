//! The periodic comparison. A relay reads what the group has acknowledged, then the stream's state,
//! then its messages, and marks in one transaction what the stream has lost. The stream may change
//! between these reads.

use crate::{
    bounds::{Bounds, Mistake},
    ledger::{Ledger, Range},
    stream::{Sequence, Stream},
};

/// The state that a stream reports.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Seen {
    /// Its creation time.
    pub created: u8,
    first: Sequence,
    last: Sequence,
    holes: Vec<Sequence>,
}

impl Seen {
    /// Reads the stream's state.
    #[must_use]
    pub fn of(stream: &Stream) -> Self {
        let holes = stream.holes();
        Self { created: stream.created, first: stream.first(), last: stream.last(), holes }
    }
}

impl Ledger {
    /// Marks what the stream has lost. `floor` is what the group had acknowledged before the
    /// stream's state was read.
    pub fn compare(&mut self, bounds: &Bounds, stream: &Stream, seen: &Seen, floor: Sequence) {
        let known = self.cursor.created == Some(seen.created);
        if !known {
            (self.cursor.created, self.cursor.acknowledged) = (Some(seen.created), 0);
        }
        if bounds.has(Mistake::ReadsTheGroupsLast) {
            self.cursor.acknowledged = self.cursor.acknowledged.max(floor);
        }
        let others = self.ranges.iter().filter(|range| range.created != seen.created);
        let (lost, removed) = if known {
            (self.tail_lost(bounds, stream, seen), self.removed(bounds, seen))
        } else {
            (others.map(|range| range.number).collect(), Vec::new())
        };
        // An acknowledged sequence refers to this ledger's message only if the stream has not lost
        // its end since, which the last confirmed message shows.
        let is_ours =
            known && (self.holds_last(bounds, stream) || bounds.has(Mistake::CreditsAcksUnseen));
        self.mark(&lost);
        self.mark(&removed);
        let cursor = &mut self.cursor;
        cursor.first = seen.first;
        cursor.holes = Some(number_of(&seen.holes));
        if is_ours {
            cursor.acknowledged = cursor.acknowledged.max(floor);
        }
        cursor.acknowledged = cursor.acknowledged.min(seen.last);
        if known && lost.is_empty() {
            return;
        }
        if bounds.has(Mistake::ForgetsTheLastConfirmed) {
            (cursor.last, cursor.last_message) = (seen.last, None);
        } else {
            self.set_last();
        }
    }

    /// Returns what the stream lost at its end, whether or not other messages were written there
    /// since.
    fn tail_lost(&self, bounds: &Bounds, stream: &Stream, seen: &Seen) -> Vec<u8> {
        let shorter = seen.last < self.cursor.last;
        if shorter && bounds.has(Mistake::MarksByNumbers) {
            let above = |range: &&Range| range.created == seen.created && range.last > seen.last;
            return self.ranges.iter().filter(above).map(|range| range.number).collect();
        }
        let other = !self.holds_last(bounds, stream);
        if shorter || (other && !bounds.has(Mistake::PassesOverTheIdentity)) {
            return self.missing(bounds, stream, seen.created, seen.last);
        }
        Vec::new()
    }

    /// Returns what was removed from the stream and the group may not have had. A range that is
    /// marked twice is republished twice, which is harmless.
    fn removed(&self, bounds: &Bounds, seen: &Seen) -> Vec<u8> {
        let acknowledged = self.cursor.acknowledged;
        let risen = seen.first > self.cursor.first;
        // Their number alone may stay the same: some disappear with the stream's beginning, others
        // appear.
        let pierced = risen || Some(number_of(&seen.holes)) != self.cursor.holes;
        let is_removed = |range: &&Range| {
            let covers =
                |hole: &Sequence| *hole > acknowledged && (range.first..=range.last).contains(hole);
            (risen && range.first < seen.first && !bounds.has(Mistake::PassesOverPurges))
                || (pierced
                    && seen.holes.iter().any(covers)
                    && !bounds.has(Mistake::PassesOverHoles))
        };
        let unread = self
            .ranges
            .iter()
            .filter(|range| range.created == seen.created && range.last > acknowledged);
        unread.filter(is_removed).map(|range| range.number).collect()
    }
}

fn number_of(holes: &[Sequence]) -> u8 {
    u8::try_from(holes.len()).unwrap_or(u8::MAX)
}
