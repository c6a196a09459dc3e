//! A queue group: its consumer, and its members with their database. Any member may get any
//! unacknowledged message, at any time and repeatedly. Which member makes no difference, so the
//! model does not distinguish them.

use crate::{
    bounds::{Bounds, Mistake},
    log::Event,
    stream::{Sequence, Stream},
};

/// Sequences, one bit each.
type Sequences = u16;

/// The consumer, and the members' progress.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Group {
    /// Sequences that the consumer no longer delivers: acknowledged, or removed.
    passed: Sequences,
    /// Sequences that members have committed or found in the inbox, but not acknowledged yet.
    to_acknowledge: Sequences,
    /// Events that members have acknowledged but not committed. Only with a mistake.
    acknowledged_first: Vec<Event>,
    /// The inbox: the claimed events.
    inbox: u8,
    /// How often each event was applied.
    pub applied: Vec<u8>,
}

fn bit(sequence: Sequence) -> Sequences {
    1 << (sequence - 1)
}

fn up_to(sequence: Sequence) -> Sequences {
    (1 << sequence) - 1
}

impl Group {
    /// A group that has received nothing.
    #[must_use]
    pub fn new(events: usize) -> Self {
        Self {
            passed: 0,
            to_acknowledge: 0,
            acknowledged_first: Vec::new(),
            inbox: 0,
            applied: vec![0; events],
        }
    }

    /// Returns the sequence up to which everything is acknowledged or gone.
    #[must_use]
    pub fn floor(&self) -> Sequence {
        u8::try_from(self.passed.trailing_ones()).unwrap_or(Sequence::MAX)
    }

    /// Returns whether the consumer can deliver this message.
    #[must_use]
    pub fn awaits(&self, sequence: Sequence) -> bool {
        self.passed & bit(sequence) == 0
    }

    /// Returns whether a member has an ack to send.
    #[must_use]
    pub fn owes(&self, sequence: Sequence) -> bool {
        self.to_acknowledge & bit(sequence) != 0
    }

    /// A member's transaction: claims the event, and applies it if it is new.
    pub fn apply(&mut self, bounds: &Bounds, sequence: Sequence, event: Event) {
        if bounds.has(Mistake::AcksFirst) {
            self.passed |= bit(sequence);
            self.acknowledged_first.push(event);
            return;
        }
        self.commit(bounds, event);
        if bounds.faults.members_die > 0 {
            self.to_acknowledge |= bit(sequence);
        } else {
            // If members cannot die, nothing can happen between the commit and the ack.
            self.passed |= bit(sequence);
        }
    }

    /// Commits what a member acknowledged first.
    pub fn commit_late(&mut self, bounds: &Bounds) {
        if let Some(event) = self.acknowledged_first.pop() {
            self.commit(bounds, event);
        }
    }

    fn commit(&mut self, bounds: &Bounds, event: Event) {
        if self.inbox & 1 << event == 0 || bounds.has(Mistake::NoInbox) {
            self.inbox |= 1 << event;
            self.applied[usize::from(event)] = (self.applied[usize::from(event)] + 1).min(2);
        }
    }

    /// The server processes an ack. It identifies the message only by its sequence.
    pub fn acknowledge(&mut self, stream: &Stream, sequence: Sequence) {
        self.to_acknowledge &= !bit(sequence);
        if sequence <= stream.last() {
            self.passed |= bit(sequence);
        }
    }

    /// Skips a message that is gone or not meant for this group.
    pub fn pass(&mut self, sequence: Sequence) {
        self.passed |= bit(sequence);
    }

    /// All members die: their events go to others.
    pub fn members_die(&mut self) {
        self.to_acknowledge = 0;
        self.acknowledged_first.clear();
    }

    /// The stream has come back without everything above a sequence.
    pub fn tail_lost(&mut self, bounds: &Bounds, above: Sequence) {
        if !bounds.has(Mistake::ConsumerStaysAhead) {
            self.passed &= up_to(above);
        }
        self.restarted(bounds);
    }

    /// The stream was recreated, and the consumer with it.
    pub fn wiped(&mut self, bounds: &Bounds) {
        self.passed = 0;
        self.restarted(bounds);
    }

    /// Connections were lost: members drop their unsent acks.
    fn restarted(&mut self, bounds: &Bounds) {
        if !bounds.has(Mistake::AcksAfterARestart) {
            self.to_acknowledge = 0;
        }
    }
}
