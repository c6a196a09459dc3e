//! The whole system: the possible steps, and the properties that must hold.

use stateright::{Model, Property};

use crate::{
    bounds::{Bounds, Faults},
    compare::Seen,
    faults::Fault,
    group::Group,
    ledger::Ledger,
    log::Transaction,
    page::Source,
    relay::Relay,
    stream::{Sequence, Stream},
};

/// How many relays there are. One waits for the other's lock.
const RELAYS: usize = 2;

/// The state of the whole system.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct System {
    /// The outbox.
    pub transactions: Vec<Transaction>,
    /// The database's knowledge of the stream.
    pub ledger: Ledger,
    /// The relay whose session holds the lock.
    pub lock: Option<usize>,
    /// The relays.
    pub relays: [Relay; RELAYS],
    /// How many sessions have held the lock. The last one's number identifies the publisher.
    pub sessions: u8,
    /// The stream.
    pub stream: Stream,
    /// The queue group.
    pub group: Group,
    /// The faults that may still happen.
    pub left: Faults,
}

/// A step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The next transaction begins.
    Begin,
    /// A transaction commits.
    Commit(usize),
    /// A transaction is rolled back.
    Abort(usize),
    /// A relay performs its next step.
    Relay(usize),
    /// An idle relay begins to compare the stream.
    Compare(usize),
    /// An idle relay takes a page of a lost range.
    Refill(usize),
    /// A member applies the message at a sequence.
    Apply(Sequence),
    /// The ack for a sequence arrives.
    Acknowledge(Sequence),
    /// A member that acknowledged first commits.
    CommitLate,
    /// A fault.
    Fault(Fault),
}

impl Model for Bounds {
    type State = System;
    type Action = Step;

    fn init_states(&self) -> Vec<System> {
        let transactions = self.writes.last().map_or(0, |last| usize::from(*last) + 1);
        let begun = if self.written_before { Transaction::Committed } else { Transaction::Waits };
        vec![System {
            transactions: vec![begun; transactions],
            ledger: Ledger::default(),
            lock: None,
            relays: [Relay::Waits, Relay::Waits],
            sessions: 0,
            stream: Stream::new(1),
            group: Group::new(self.writes.len()),
            left: self.faults,
        }]
    }

    fn actions(&self, system: &System, steps: &mut Vec<Step>) {
        system.progress(steps);
        // Nobody may rely on it: a transaction may stay open, and a frozen relay may stay frozen.
        if system.transactions.contains(&Transaction::Waits) {
            steps.push(Step::Begin);
        }
        for (number, transaction) in system.transactions.iter().enumerate() {
            if *transaction == Transaction::Open {
                steps.extend([Step::Commit(number), Step::Abort(number)]);
            }
        }
        let frozen =
            |relay: &usize| system.relays[*relay] != Relay::Waits && system.lock != Some(*relay);
        steps.extend((0..RELAYS).filter(frozen).map(Step::Relay));
        system.faults(steps);
    }

    fn next_state(&self, last: &System, step: Step) -> Option<System> {
        let mut system = last.clone();
        system.take(self, step);
        (system != *last).then_some(system)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no event is applied twice", |_, system: &System| {
                system.group.applied.iter().all(|times| *times < 2)
            }),
            Property::always(
                "no event of a rolled back transaction is applied",
                |bounds, system: &System| {
                    (0..bounds.writes.len()).all(|event| {
                        system.group.applied[event] == 0 || system.committed(bounds, event)
                    })
                },
            ),
            Property::always(
                "when nothing is left to do, every event is applied",
                |bounds, system: &System| {
                    system.has_applied_all(bounds) || system.has_something_to_do(bounds)
                },
            ),
            Property::sometimes(
                "every fault happened, and every event is applied",
                |bounds, system: &System| {
                    system.left == Faults::default()
                        && system.has_applied_all(bounds)
                        && !system.transactions.contains(&Transaction::Waits)
                        && !system.has_something_to_do(bounds)
                },
            ),
        ]
    }
}

impl System {
    fn committed(&self, bounds: &Bounds, event: usize) -> bool {
        self.transactions[usize::from(bounds.writes[event])] == Transaction::Committed
    }

    fn has_applied_all(&self, bounds: &Bounds) -> bool {
        (0..bounds.writes.len())
            .all(|event| self.group.applied[event] > 0 || !self.committed(bounds, event))
    }

    /// Returns whether a guaranteed step would change anything.
    fn has_something_to_do(&self, bounds: &Bounds) -> bool {
        let mut steps = Vec::new();
        self.progress(&mut steps);
        steps.into_iter().any(|step| bounds.next_state(self, step).is_some())
    }

    /// The steps that are guaranteed to happen as long as they change anything.
    fn progress(&self, steps: &mut Vec<Step>) {
        match self.lock {
            None => {
                // Waiting relays are interchangeable. If none waits, frozen ones wake up.
                match self.relays.iter().position(|relay| *relay == Relay::Waits) {
                    Some(relay) => steps.push(Step::Relay(relay)),
                    None => steps.extend((0..RELAYS).map(Step::Relay)),
                }
            }
            Some(holder) => {
                steps.push(Step::Relay(holder));
                if matches!(self.relays[holder], Relay::Ready { .. }) {
                    steps.extend([Step::Compare(holder), Step::Refill(holder)]);
                }
            }
        }
        for (sequence, message) in self.stream.messages() {
            if message.event.is_some() && self.group.awaits(sequence) {
                steps.push(Step::Apply(sequence));
            }
        }
        let owed = (1..=self.stream.last()).filter(|sequence| self.group.owes(*sequence));
        steps.extend(owed.map(Step::Acknowledge));
        steps.push(Step::CommitLate);
    }

    fn take(&mut self, bounds: &Bounds, step: Step) {
        match step {
            Step::Begin => {
                let next = self.transactions.iter_mut().find(|t| **t == Transaction::Waits);
                next.into_iter().for_each(|transaction| *transaction = Transaction::Open);
            }
            Step::Commit(number) => self.transactions[number] = Transaction::Committed,
            Step::Abort(number) => self.transactions[number] = Transaction::Aborted,
            Step::Relay(relay) => self.relay(bounds, relay),
            Step::Compare(relay) => {
                let mut compared = self.ledger.clone();
                let floor = self.floor(bounds);
                compared.compare(bounds, &self.stream, &Seen::of(&self.stream), floor);
                let is_new = self.relays[relay] != Relay::Ready { created: self.stream.created };
                if compared != self.ledger || is_new {
                    self.relays[relay] = Relay::Asks { floor };
                }
            }
            Step::Refill(relay) => {
                if let Relay::Ready { created } = self.relays[relay] {
                    let by = self.sessions;
                    let source = Source { bounds, transactions: &self.transactions, created, by };
                    if let Some(page) = source.take_lost(&mut self.ledger) {
                        self.relays[relay] = Relay::Publishes(page);
                    }
                }
            }
            Step::Apply(sequence) => {
                if let Some(event) = self.stream.at(sequence).and_then(|message| message.event) {
                    self.group.apply(bounds, sequence, event);
                }
            }
            Step::Acknowledge(sequence) => self.group.acknowledge(&self.stream, sequence),
            Step::CommitLate => self.group.commit_late(bounds),
            Step::Fault(fault) => self.fail(bounds, fault),
        }
    }

    /// Returns what the group has acknowledged. It matters only if something is removed from the
    /// stream.
    pub(crate) fn floor(&self, bounds: &Bounds) -> Sequence {
        if bounds.faults.purge + bounds.faults.delete == 0 { 0 } else { self.group.floor() }
    }
}
