//! A batch of messages that a member has received.

use std::sync::Arc;

use tracing::Span;
use uuid::Uuid;

use crate::{
    decode::{Decoded, Undecodable, log_span},
    effect::MemberContext,
    in_flight::InFlight,
    listener::Listener,
};

/// The result of a batch.
pub(crate) enum Outcome {
    /// Every message was answered.
    Settled,
    /// The database is unavailable. These messages were not answered.
    Away(Vec<InFlight>),
}

/// One message of a batch.
pub(crate) struct Slot<E> {
    pub(crate) message: InFlight,
    pub(crate) event_id: Uuid,
    pub(crate) event: Result<Decoded<E>, Undecodable>,
}

impl<E> Slot<E> {
    /// The span of the work on the event, if it was decoded.
    pub(crate) fn process(&self) -> Option<&Span> {
        self.event.as_ref().ok().map(|event| &event.process)
    }
}

/// A batch of messages. A slot number identifies an event.
pub(crate) struct Batch<L: Listener> {
    pub(crate) context: Arc<MemberContext<L>>,
    pub(crate) slots: Vec<Slot<L::Events>>,
    /// The connection that delivered them.
    pub(crate) epoch: u64,
}

impl<L: Listener> Batch<L> {
    /// The span of what is logged about the event in a slot.
    pub(crate) fn log_span(&self, at: usize) -> Span {
        let slot = &self.slots[at];
        match &slot.event {
            Ok(event) => event.received.span().clone(),
            Err(_) => {
                let client_id = &self.context.client_id;
                log_span(slot.event_id, &slot.message.subject, L::QUEUE_GROUP, client_id, None)
            }
        }
    }

    /// The ids of the events in these slots.
    pub(crate) fn ids(&self, slots: &[usize]) -> Vec<Uuid> {
        slots.iter().map(|at| self.slots[*at].event_id).collect()
    }

    /// The events in these slots, all of which were decoded.
    pub(crate) fn decoded(&self, slots: &[usize]) -> impl Iterator<Item = &Decoded<L::Events>> {
        slots.iter().filter_map(|at| self.slots[*at].event.as_ref().ok())
    }
}
