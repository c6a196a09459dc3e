//! The faults, and their effects on the system.

use crate::{
    bounds::Bounds,
    relay::Relay,
    stream::{Message, MessageId, Sequence, Stream},
    system::{Step, System},
};

/// The publisher of messages that come from no relay.
const SOMEBODY_ELSE: u8 = u8::MAX;

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A relay is killed.
    Kill(usize),
    /// A relay is frozen, and loses its session.
    Freeze(usize),
    /// A batch's answer is lost. The flag tells whether it was stored.
    Unknown(usize, bool),
    /// The duplicate window forgets an id.
    Forget(MessageId),
    /// The stream loses everything above a sequence.
    LoseTail(Sequence),
    /// The stream is lost and recreated.
    Wipe,
    /// All messages are purged.
    Purge,
    /// A message is deleted.
    Delete(Sequence),
    /// Another client publishes.
    Others,
    /// The members of the group die.
    MembersDie,
}

impl System {
    /// Lists the faults that may happen now.
    pub(crate) fn faults(&self, steps: &mut Vec<Step>) {
        let mut may = |left: u8, fault: Fault| {
            if left > 0 {
                steps.push(Step::Fault(fault));
            }
        };
        let left = &self.left;
        if let Some(holder) = self.lock {
            may(left.kill, Fault::Kill(holder));
            // An idle relay that freezes wakes up without its session, as if it had been killed.
            if matches!(
                self.relays[holder],
                Relay::Publishes(_) | Relay::Looks(_) | Relay::Commits(..)
            ) {
                may(left.freeze, Fault::Freeze(holder));
            }
            if matches!(self.relays[holder], Relay::Publishes(_)) {
                may(left.unknown, Fault::Unknown(holder, true));
                may(left.unknown, Fault::Unknown(holder, false));
            }
        }
        for id in self.stream.window() {
            may(left.forget, Fault::Forget(id));
        }
        for kept in 0..self.stream.last() {
            may(left.lose_tail, Fault::LoseTail(kept));
        }
        may(left.wipe, Fault::Wipe);
        may(left.purge, Fault::Purge);
        for (sequence, _) in self.stream.messages() {
            may(left.delete, Fault::Delete(sequence));
        }
        may(left.others, Fault::Others);
        may(left.members_die, Fault::MembersDie);
    }

    /// Applies a fault.
    pub(crate) fn fail(&mut self, bounds: &Bounds, fault: Fault) {
        let left = &mut self.left;
        match fault {
            Fault::Kill(relay) => {
                left.kill -= 1;
                (self.relays[relay], self.lock) = (Relay::Waits, None);
            }
            Fault::Freeze(_) => {
                left.freeze -= 1;
                self.lock = None;
            }
            Fault::Unknown(relay, stored) => {
                if let Relay::Publishes(page) = &mut self.relays[relay]
                    && page.publish_unknown(bounds, &mut self.stream, stored)
                {
                    left.unknown -= 1;
                }
            }
            Fault::Forget(id) => {
                left.forget -= 1;
                self.stream.forget(id);
            }
            Fault::LoseTail(kept) => {
                left.lose_tail -= 1;
                self.stream.lose_tail(kept);
                self.group.tail_lost(bounds, kept);
            }
            Fault::Wipe => {
                left.wipe -= 1;
                self.stream = Stream::new(self.stream.created + 1);
                self.group.wiped(bounds);
            }
            Fault::Purge => {
                left.purge -= 1;
                self.stream.purge();
                (1..=self.stream.last()).for_each(|sequence| self.group.pass(sequence));
            }
            Fault::Delete(sequence) => {
                left.delete -= 1;
                self.stream.delete(sequence);
                self.group.pass(sequence);
            }
            Fault::Others => {
                left.others -= 1;
                let ack = self.stream.publish(Message { event: None, by: SOMEBODY_ELSE }, None);
                self.group.pass(ack.sequence);
            }
            Fault::MembersDie => {
                left.members_die -= 1;
                self.group.members_die();
            }
        }
    }
}
