//! The common path of requests that change an order.

use axum::http::StatusCode;
use common::{
    bus::outbox,
    events::order::Order,
    pod::{auth::Caller, problem::Problem},
};
use sqlx::PgConnection;
use tracing::info;
use uuid::Uuid;

use super::api::{Api, no_order};
use crate::{
    order::{self, Refused, Transition},
    store::orders,
};

/// Why an order was not changed.
#[derive(Debug)]
pub(super) enum NotChanged {
    /// The order's state rules the change out.
    Refused(Refused),
    /// The order does not exist, or the database failed.
    Failed(Problem),
}

impl<E: Into<Problem>> From<E> for NotChanged {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl NotChanged {
    /// The answer. 409 if the order's state rules the change out.
    pub(super) fn problem(self) -> Problem {
        match self {
            Self::Refused(refused) => Problem::new(StatusCode::CONFLICT, refused.to_string()),
            Self::Failed(problem) => problem,
        }
    }
}

/// Locks a buyer's order, applies a transition, and commits the result with its event. Returns the
/// new state, which the order may have reached earlier.
pub(super) async fn change(
    api: &Api,
    id: Uuid,
    buyer: &Caller,
    transition: Transition,
) -> Result<Order, NotChanged> {
    let change = async |tx: &mut PgConnection| {
        let order = orders::lock(tx, id, buyer.as_str()).await?.ok_or_else(no_order)?;
        // Read after the lock: waiting for the lock may have taken time.
        let now = orders::now(tx).await?;
        let next = match order::decide(&order, transition, now).map_err(NotChanged::Refused)? {
            Some(next) => next,
            None => return Ok((order, None)),
        };
        orders::save(tx, std::slice::from_ref(&next)).await?;
        let event = order::event(next.clone())?;
        outbox::put_prepared(tx, [&event]).await?;
        Ok::<_, NotChanged>((next, Some(event.id)))
    };
    let (order, event_id) = api.pool.transaction(change).await?;
    if let Some(event_id) = event_id {
        api.wake.wake();
        info!(
            notice = "order_changed",
            order.id = %id,
            ticket.id = %order.ticket_id,
            order.status = order.status.as_str(),
            event.id = %event_id,
            "order changed",
        );
    }
    Ok(order)
}
