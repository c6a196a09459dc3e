//! What the database knows of a stream: the cursor, and where the events went. It is written by the
//! relay whose session holds the lock, one transaction at a time.

use crate::{
    bounds::{Bounds, Mistake},
    log::{Event, Snapshot, Span},
    stream::{Message, Sequence, Stream},
};

/// How far a stream has been published, and what is known of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// Everything visible in it has been published.
    pub done: Snapshot,
    /// The snapshot that is being worked off.
    pub target: Option<Snapshot>,
    /// The event of `target` to go on with.
    pub at: Event,
    /// The stream's creation time.
    pub created: Option<u8>,
    /// The last sequence that it confirmed, and the message there.
    pub last: Sequence,
    /// Not known after some mistakes.
    pub last_message: Option<Message>,
    /// Its first sequence, when last compared.
    pub first: Sequence,
    /// Its number of holes, when last compared. `None` when that says nothing any more.
    pub holes: Option<u8>,
    /// The sequence up to which the group was seen to have acknowledged.
    pub acknowledged: Sequence,
}

/// Where a page of events went.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Range {
    /// Names the range.
    pub number: u8,
    /// Which incarnation of the stream.
    pub created: u8,
    /// Its first sequence there.
    pub first: Sequence,
    /// Its last one.
    pub last: Sequence,
    /// The message at the last one.
    pub last_message: Message,
    /// Which events.
    pub span: Span,
    /// Whether they have to be published again.
    pub lost: bool,
}

/// The rows of one stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Ledger {
    /// How far it has been published.
    pub cursor: Cursor,
    /// Where that went.
    pub ranges: Vec<Range>,
}

impl Ledger {
    /// Whether a range has to be published again.
    #[must_use]
    pub fn has_lost(&self) -> bool {
        self.ranges.iter().any(|range| range.lost)
    }

    /// The number of the next range.
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

    /// Sets the last confirmed message to that of the newest range which is not lost.
    pub fn set_last(&mut self) {
        let created = self.cursor.created;
        let kept = self.ranges.iter().filter(|range| !range.lost && Some(range.created) == created);
        let newest = kept.max_by_key(|range| range.last);
        self.cursor.last = newest.map_or(0, |range| range.last);
        self.cursor.last_message = newest.map(|range| range.last_message);
    }

    /// The ranges of the verified incarnation that the stream, whose last sequence is `end`, does not
    /// hold: from the newest one back to one whose last message is where it was stored. What was removed
    /// tells nothing, and is passed over; the first sequence and the holes tell of that.
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

    /// Whether the stream holds the last confirmed message. If not, the ranges tell what is missing.
    #[must_use]
    pub fn holds_last(&self, bounds: &Bounds, stream: &Stream) -> bool {
        self.cursor.last_message.is_none_or(|expected| {
            stream.at(self.cursor.last).is_some_and(|message| same(bounds, message, expected))
        })
    }
}

/// Whether a message is the one that was stored.
fn same(bounds: &Bounds, message: Message, expected: Message) -> bool {
    if bounds.has(Mistake::KnowsMessagesByTheirEvent) {
        return message.event == expected.event;
    }
    message == expected
}
