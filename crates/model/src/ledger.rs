//! The database's knowledge of a stream: the cursor, and where the events went. Written by the
//! relay whose session holds the lock, one transaction at a time.

use crate::{
    bounds::{Bounds, Mistake},
    log::{Event, Snapshot, Span},
    stream::{Message, Sequence, Stream},
};

/// How far a stream has been published, and its last known state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// Everything visible in it has been published.
    pub done: Snapshot,
    /// The snapshot that is being published in pages.
    pub target: Option<Snapshot>,
    /// The event of `target` to continue with.
    pub at: Event,
    /// The stream's creation time.
    pub created: Option<u8>,
    /// The last sequence that the stream confirmed.
    pub last: Sequence,
    /// The message there. Unknown after some mistakes.
    pub last_message: Option<Message>,
    /// Its first sequence, when last compared.
    pub first: Sequence,
    /// Its number of holes, when last compared. `None` if that is no longer meaningful.
    pub holes: Option<u8>,
    /// The sequence up to which the group had acknowledged, as last seen.
    pub acknowledged: Sequence,
}

/// Where a page of events went.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Range {
    /// The range's number.
    pub number: u8,
    /// The incarnation of the stream.
    pub created: u8,
    /// Its first sequence in the stream.
    pub first: Sequence,
    /// Its last sequence.
    pub last: Sequence,
    /// The message at the last sequence.
    pub last_message: Message,
    /// The events.
    pub span: Span,
    /// Whether they have to be republished.
    pub lost: bool,
}

/// The rows of one stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Ledger {
    /// How far it has been published.
    pub cursor: Cursor,
    /// Where the published events went.
    pub ranges: Vec<Range>,
}

impl Ledger {
    /// Returns whether a range has to be republished.
    #[must_use]
    pub fn has_lost(&self) -> bool {
        self.ranges.iter().any(|range| range.lost)
    }

    /// Returns the number of the next range.
    #[must_use]
    pub fn next_number(&self) -> u8 {
        self.ranges.iter().map(|range| range.number + 1).max().unwrap_or_default()
    }

    /// Marks ranges as lost.
    pub fn mark(&mut self, numbers: &[u8]) {
        for range in &mut self.ranges {
            range.lost |= numbers.contains(&range.number);
        }
    }

    /// Sets the last confirmed message to that of the newest range that is not lost.
    pub fn set_last(&mut self) {
        let created = self.cursor.created;
        let kept = self.ranges.iter().filter(|range| !range.lost && Some(range.created) == created);
        let newest = kept.max_by_key(|range| range.last);
        self.cursor.last = newest.map_or(0, |range| range.last);
        self.cursor.last_message = newest.map(|range| range.last_message);
    }

    /// Returns the ranges of the verified incarnation that the stream, whose last sequence is
    /// `end`, does not hold: from the newest one back to one whose last message is where it was
    /// stored. Removed messages reveal nothing and are skipped; the first sequence and the holes
    /// cover them.
    #[must_use]
    pub fn missing(&self, bounds: &Bounds, stream: &Stream, created: u8, end: Sequence) -> Vec<u8> {
        let mut ranges: Vec<&Range> =
            self.ranges.iter().filter(|range| !range.lost && range.created == created).collect();
        ranges.sort_by_key(|range| std::cmp::Reverse(range.last));
        let (mut missing, mut unsure) = (Vec::new(), Vec::new());
        for range in ranges {
            match stream.at(range.last) {
                Some(message) if same(bounds, message, range.last_message) => break,
                None if range.last <= end => unsure.push(range.number),
                _ => {
                    missing.append(&mut unsure);
                    missing.push(range.number);
                }
            }
        }
        missing
    }

    /// Returns whether the stream holds the last confirmed message. If not, the ranges tell what is
    /// missing.
    #[must_use]
    pub fn holds_last(&self, bounds: &Bounds, stream: &Stream) -> bool {
        self.cursor.last_message.is_none_or(|expected| {
            stream.at(self.cursor.last).is_some_and(|message| same(bounds, message, expected))
        })
    }
}

/// Returns whether a message is the one that was stored.
fn same(bounds: &Bounds, message: Message, expected: Message) -> bool {
    if bounds.has(Mistake::KnowsMessagesByTheirEvent) {
        return message.event == expected.event;
    }
    message == expected
}
