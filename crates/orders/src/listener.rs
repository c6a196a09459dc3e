//! Handles ticket events: keeps each ticket's newest state.

use common::{
    bus::{Failure, Listener, Received},
    events::{as_received::AsReceived, ticket::TicketEvent},
};
use sqlx::PgConnection;

use crate::store::tickets::{self, Copied};

/// The member of `orders-service`.
#[derive(Debug, Clone, Copy)]
pub struct TicketListener;

impl Listener for TicketListener {
    type Events = AsReceived<TicketEvent>;
    const QUEUE_GROUP: &'static str = "orders-service";

    async fn handle(
        &self,
        tx: &mut PgConnection,
        batch: &[&Received<AsReceived<TicketEvent>>],
    ) -> Result<(), Failure> {
        let copies: Vec<Copied<'_>> = batch
            .iter()
            .map(|received| Copied {
                ticket: received.event.event.state(),
                state: &received.event.state,
                event_id: received.id,
                processed_by: &received.client_id,
            })
            .collect();
        tickets::upsert_if_newer(tx, &copies).await?;
        Ok(())
    }
}
