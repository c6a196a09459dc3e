//! Reserves tickets for requests that arrive together, in one transaction. It stores the orders
//! that need not wait; a request that is refused, or has to wait for another one, gets its own transaction.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use common::{
    bus::{BusError, TraceContext, outbox},
    pod::{
        group_commit::{Done, SharedWork},
        idempotency::Answer,
    },
};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{limit::Limit, order, store::reservations};

/// How tickets are reserved.
#[derive(Debug, Clone, Copy)]
pub struct Reservations {
    /// How long a ticket is reserved.
    pub time: Duration,
    /// How many tickets one buyer may have reserved at a time.
    pub limit: Limit,
}

/// A request for a ticket.
#[derive(Debug, Clone)]
pub struct Request {
    /// The ticket.
    pub ticket_id: Uuid,
    /// The buyer's name.
    pub buyer: String,
    /// The request's trace.
    pub trace: Option<TraceContext>,
}

impl SharedWork for Reservations {
    type Item = Request;
    /// The event's id.
    type Made = Uuid;
    // Up to three advisory locks each: 192 of the 6,400 for which Postgres has room by default.
    const BATCH: usize = 64;

    async fn work(
        &self,
        tx: &mut PgConnection,
        items: &[&Request],
    ) -> Result<Vec<Done<Uuid>>, BusError> {
        let most = self.limit.most();
        let places = distinct(items, most.is_some());
        let tickets: Vec<_> = places.iter().map(|at| items[*at].ticket_id).collect();
        let limited = |at: &usize| most.map(|_| items[*at].buyer.as_str());
        let buyers: Vec<_> = places.iter().map(limited).collect();

        let mut orders = HashMap::new();
        for (claimed, price, now) in reservations::claim(tx, &tickets, &buyers).await? {
            let (at, Request { ticket_id, buyer, .. }) = (places[claimed], items[places[claimed]]);
            let order = order::reserve(*ticket_id, buyer, price, now, self.time);
            orders.insert(order.id, (at, order));
        }
        let mut claimed: Vec<_> = orders.values().map(|(_, order)| order).collect();
        // In the order in which the listener locks tickets, to avoid deadlocks.
        claimed.sort_unstable_by_key(|order| order.ticket_id);
        let mut made: Vec<_> = items.iter().map(|_| None).collect();
        let mut events = Vec::new();
        for id in reservations::insert(tx, &claimed, most).await? {
            let Some((at, order)) = orders.remove(&id) else { continue };
            let answer = Answer { resource_id: id, body: serde_json::to_string(&order)? };
            let event = match items[at].trace {
                Some(trace) => trace.sync_scope(|| order::event(order))?,
                None => order::event(order)?,
            };
            made[at] = Some((answer, event.id));
            events.push(event);
        }
        outbox::put_prepared(tx, &events).await?;
        Ok(made)
    }
}

/// The places of requests that differ in their tickets and, with `limited`, in their buyers: the first of
/// each. One statement cannot count what it inserts.
fn distinct(items: &[&Request], limited: bool) -> Vec<usize> {
    let (mut tickets, mut buyers) = (HashSet::new(), HashSet::new());
    let mut places = Vec::new();
    for (at, Request { ticket_id, buyer, .. }) in items.iter().enumerate() {
        if tickets.contains(ticket_id) || limited && buyers.contains(buyer) {
            continue;
        }
        tickets.insert(ticket_id);
        buyers.insert(buyer);
        places.push(at);
    }
    places
}
