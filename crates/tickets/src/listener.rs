//! Handles order events. An order holds or releases its ticket, which creates a new version of the
//! ticket and publishes it to every service.

use common::{
    bus::{Failure, Listener, Received, Wake, outbox},
    events::{
        order::{Order, OrderEvent},
        ticket::TicketUpdated,
    },
};
use sqlx::PgConnection;

use crate::store;

/// The service's member of `tickets-service`.
#[derive(Debug, Clone)]
pub struct OrderListener {
    wake: Wake,
}

impl OrderListener {
    /// A member that wakes the relay for the events that it causes.
    #[must_use]
    pub fn new(wake: Wake) -> Self {
        Self { wake }
    }
}

impl Listener for OrderListener {
    type Events = OrderEvent;
    const QUEUE_GROUP: &'static str = "tickets-service";

    async fn handle(
        &self,
        tx: &mut PgConnection,
        batch: &[&Received<OrderEvent>],
    ) -> Result<(), Failure> {
        let orders: Vec<&Order> = batch.iter().map(|received| received.event.state()).collect();
        store::upsert_if_newer(tx, &orders).await?;
        let tickets: Vec<_> = orders.iter().map(|order| order.ticket_id).collect();
        let changed = store::hold(tx, &tickets).await?;
        let events = changed.into_iter().map(|ticket| {
            // A ticket changes once for all of its orders in the batch. The last of them is the cause.
            let cause = |at: &&&Received<OrderEvent>| at.event.state().ticket_id == ticket.id;
            let prepare = || outbox::prepare(&TicketUpdated(ticket.clone()));
            match batch.iter().rev().find(cause) {
                Some(cause) => cause.in_trace(prepare),
                None => prepare(),
            }
        });
        outbox::put_prepared(tx, &events.collect::<Result<Vec<_>, _>>()?).await?;
        Ok(())
    }

    fn after_commit(&self) {
        self.wake.wake();
    }
}
