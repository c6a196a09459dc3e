//! How a request changes what becomes of an order.

use common::{
    bus::outbox,
    events::order::Order,
    pod::{auth::Caller, problem::Problem},
};
use sqlx::PgConnection;
use tracing::info;
use uuid::Uuid;

use super::{Api, no_order};
use crate::{
    order::{self, Refused, Transition},
    store::orders,
};

/// Applies a command to a buyer's order: locked, decided, and committed with the event that tells of it.
/// The order as it is then, whether it became that now or before; or why it could not.
///
/// # Errors
/// 404, and when the database fails.
pub(super) async fn change(
    api: &Api,
    id: Uuid,
    buyer: &Caller,
    command: Transition,
) -> Result<Result<Order, Refused>, Problem> {
    let change = async |tx: &mut PgConnection| {
        let Some(order) = orders::lock(tx, id, buyer.as_str()).await? else {
            return Err(no_order());
        };
        // After the lock, for which it may have waited.
        let now = orders::now(tx).await?;
        let next = match order::decide(&order, command, now) {
            Ok(Some(next)) => next,
            Ok(None) => return Ok(Ok((order, None))),
            Err(refused) => return Ok(Err(refused)),
        };
        orders::save(tx, std::slice::from_ref(&next)).await?;
        let event = order::event(next.clone())?;
        outbox::put_prepared(tx, [&event]).await?;
        Ok(Ok((next, Some(event.id))))
    };
    let (next, event_id) = match api.pool.transaction(change).await? {
        Ok((next, Some(event_id))) => (next, event_id),
        Ok((order, None)) => return Ok(Ok(order)),
        Err(refused) => return Ok(Err(refused)),
    };
    api.wake.wake();
    info!(
        notice = "order_changed",
        order.id = %id,
        ticket.id = %next.ticket_id,
        order.status = next.status.as_str(),
        event.id = %event_id,
        "order changed",
    );
    Ok(Ok(next))
}
