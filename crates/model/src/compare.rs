//! The periodic comparison: a relay asks what the group has acknowledged, then what the stream is, then
//! which messages it holds; and marks in one transaction what the stream has lost. The stream may change
//! between the questions.

use crate::{
    bounds::{Bounds, Mistake},
    ledger::{Ledger, Range},
    stream::{Sequence, Stream},
};

/// What a stream says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Seen {
    /// Its creation time.
    pub created: u8,
    first: Sequence,
    last: Sequence,
    holes: Vec<Sequence>,
}

impl Seen {
    /// Asks the stream.
    #[must_use]
    pub fn of(stream: &Stream) -> Self {
        let holes = stream.holes();
        Self { created: stream.created, first: stream.first(), last: stream.last(), holes }
    }
}

impl Ledger {
    /// Marks what the stream has lost. `floor` is what the group had acknowledged before the stream was
    /// asked.
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
        // What is acknowledged at a sequence is this ledger's message only if the stream has lost no end
        // since, which the last confirmed message shows.
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

    /// What the stream lost at its end, whether or not others have written there since.
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

    /// What was removed from the stream and the group may not have had. A range that is marked twice goes
    /// out twice, which harms nobody.
    fn removed(&self, bounds: &Bounds, seen: &Seen) -> Vec<u8> {
        let acknowledged = self.cursor.acknowledged;
        let risen = seen.first > self.cursor.first;
        // Their number alone may stay the same: some go with the stream's beginning, others come.
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
