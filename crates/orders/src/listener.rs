//! What the service does with an event about a ticket: it keeps the newest state.

use common::{
    bus::{Failure, Listener, Received},
    events::ticket::{TICKETS, Ticket, TicketCreated, TicketUpdated},
};
use sqlx::PgConnection;

use crate::store::tickets::{self, Copied};

common::event_set! {
    /// The events that the service takes.
    pub enum TicketEvent in TICKETS {
        /// A ticket is new.
        Created(TicketCreated),
        /// A ticket has changed.
        Updated(TicketUpdated),
    }
}

impl TicketEvent {
    /// The ticket as the event tells it. Created or updated makes no difference here: events come
    /// in any order, and the version alone says which state is newer.
    #[must_use]
    pub fn ticket(&self) -> &Ticket {
        match self {
            Self::Created(TicketCreated(ticket)) | Self::Updated(TicketUpdated(ticket)) => ticket,
        }
    }
}

/// The member of `orders-service`.
#[derive(Debug, Clone, Copy)]
pub struct TicketListener;

impl Listener for TicketListener {
    type Events = TicketEvent;
    const QUEUE_GROUP: &'static str = "orders-service";

    async fn handle(
        &self,
        tx: &mut PgConnection,
        batch: &[&Received<TicketEvent>],
    ) -> Result<(), Failure> {
        let copies: Vec<Copied<'_>> = batch
            .iter()
            .map(|received| Copied {
                ticket: received.event.ticket(),
                event_id: received.id,
                processed_by: &received.client_id,
            })
            .collect();
        tickets::upsert_if_newer(tx, &copies).await?;
        Ok(())
    }
}
