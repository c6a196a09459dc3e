//! What the service does with an event about an order: the order's ticket is held by it, or free again,
//! and that is a new version of the ticket, of which every service hears.

use common::{
    bus::{Failure, Listener, Received, Wake, outbox},
    events::{
        order::{ORDERS, Order, OrderCancelled, OrderCompleted, OrderCreated, OrderExpired},
        ticket::TicketUpdated,
    },
};
use sqlx::PgConnection;

use crate::store;

common::event_set! {
    /// The events that the service takes.
    pub enum OrderEvent in ORDERS {
        /// A ticket is reserved.
        Created(OrderCreated),
        /// It is sold.
        Completed(OrderCompleted),
        /// It is free again.
        Cancelled(OrderCancelled),
        /// Likewise.
        Expired(OrderExpired),
    }
}

impl OrderEvent {
    /// The order as the event tells it. Which event it was makes no difference here: they come in
    /// any order, and the version alone says which state is newer.
    #[must_use]
    pub fn order(&self) -> &Order {
        match self {
            Self::Created(OrderCreated(order))
            | Self::Completed(OrderCompleted(order))
            | Self::Cancelled(OrderCancelled(order))
            | Self::Expired(OrderExpired(order)) => order,
        }
    }
}

/// The member of `tickets-service`.
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
        let orders: Vec<&Order> = batch.iter().map(|received| received.event.order()).collect();
        store::upsert_if_newer(tx, &orders).await?;
        let tickets: Vec<_> = orders.iter().map(|order| order.ticket_id).collect();
        let changed = store::hold(tx, &tickets).await?;
        let events = changed.into_iter().map(|ticket| outbox::prepare(&TicketUpdated(ticket)));
        outbox::put_prepared(tx, &events.collect::<Result<Vec<_>, _>>()?).await?;
        Ok(())
    }

    fn after_commit(&self) {
        self.wake.wake();
    }
}
