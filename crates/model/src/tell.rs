//! Describes the protocol's steps in words.

use crate::{
    bounds::Bounds,
    explore::Told,
    faults::Fault,
    relay::Relay,
    system::{Step, System},
};

impl Told for Bounds {
    fn tell(&self, system: &System, step: &Step) -> String {
        let at = |sequence: u8| match system.stream.at(sequence).map(|message| message.event) {
            Some(Some(event)) => format!("sequence {sequence}, event {event}"),
            _ => format!("sequence {sequence}"),
        };
        match *step {
            Step::Begin => "the next transaction begins".to_owned(),
            Step::Commit(number) => format!("transaction {number} commits"),
            Step::Abort(number) => format!("transaction {number} is rolled back"),
            Step::Relay(relay) => format!("relay {relay} {}", next(&system.relays[relay])),
            Step::Compare(relay) => {
                format!("relay {relay} asks what the group has acknowledged")
            }
            Step::Refill(relay) => format!("relay {relay} takes a page of a lost range"),
            Step::Apply(sequence) => format!("a member commits {}", at(sequence)),
            Step::Acknowledge(sequence) => format!("an ack of {} arrives", at(sequence)),
            Step::CommitLate => "a member that acknowledged before commits".to_owned(),
            Step::Fault(fault) => match fault {
                Fault::Kill(relay) => format!("FAULT: relay {relay} is killed"),
                Fault::Freeze(relay) => format!("FAULT: relay {relay} freezes, its session ends"),
                Fault::Unknown(relay, stored) => {
                    format!("FAULT: relay {relay} gets no answer to its batch (stored: {stored})")
                }
                Fault::Forget((event, _)) => format!("FAULT: the window forgets event {event}"),
                Fault::LoseTail(kept) => format!("FAULT: the stream loses everything above {kept}"),
                Fault::Wipe => "FAULT: the stream is lost and recreated".to_owned(),
                Fault::Purge => "FAULT: the stream is purged".to_owned(),
                Fault::Delete(sequence) => format!("FAULT: deleted: {}", at(sequence)),
                Fault::Others => "FAULT: another client publishes".to_owned(),
                Fault::MembersDie => "FAULT: the group's members die".to_owned(),
            },
        }
    }
}

/// Describes a relay's next step.
fn next(relay: &Relay) -> String {
    match relay {
        Relay::Waits => "takes the lock".to_owned(),
        Relay::Begins => "asks what the group has acknowledged".to_owned(),
        Relay::Asks { .. } => "reads the stream's state".to_owned(),
        Relay::Compares { .. } => "compares, and commits what it found".to_owned(),
        Relay::Ready { .. } => "takes a page of new events".to_owned(),
        Relay::Publishes(page) => format!("publishes of {page}"),
        Relay::Looks(page) => format!("has all acks of {page}, and checks the stream"),
        Relay::Commits(page, _) => format!("commits {page}"),
        Relay::WritesLater { .. } => "writes what it postponed".to_owned(),
    }
}
