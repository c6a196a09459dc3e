//! New tickets that arrive together are stored by one transaction.

use std::sync::Arc;

use common::{
    bus::{
        BusError,
        outbox::{self, OutboxEvent},
    },
    events::ticket::Ticket,
    pod::{
        group_commit::{Done, SharedWork},
        idempotency::Answer,
    },
};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::store;

/// Stores new tickets and their events. As each ticket was validated before, and none waits for another,
/// only the database can fail.
#[derive(Debug, Clone, Copy)]
pub struct NewTickets;

/// A ticket, its event, and the answer to its request.
#[derive(Debug, Clone)]
pub struct PreparedTicket {
    /// The ticket.
    pub ticket: Ticket,
    /// Its event, prepared in the request's trace.
    pub event: OutboxEvent,
    /// The answer.
    pub answer: Answer,
}

impl SharedWork for NewTickets {
    type Item = Arc<PreparedTicket>;
    /// The event's id.
    type Made = Uuid;
    const BATCH: usize = 256;

    async fn work(
        &self,
        tx: &mut PgConnection,
        items: &[&Arc<PreparedTicket>],
    ) -> Result<Vec<Done<Uuid>>, BusError> {
        insert(tx, items).await?;
        Ok(items.iter().map(|item| Some((item.answer.clone(), item.event.id))).collect())
    }
}

/// Stores tickets and their events.
///
/// # Errors
/// Any database error. Roll the transaction back.
pub(crate) async fn insert(
    tx: &mut PgConnection,
    items: &[&Arc<PreparedTicket>],
) -> Result<(), BusError> {
    store::insert(tx, items.iter().map(|item| &item.ticket)).await?;
    outbox::put_prepared(tx, items.iter().map(|item| &item.event)).await?;
    Ok(())
}
