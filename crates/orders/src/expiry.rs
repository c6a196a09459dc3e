//! Expires overdue orders, each once, whichever replica finds them first. Orders that came due
//! while no replica was running expire as soon as one starts.

use std::time::Duration;

use common::{
    bus::{BusError, Pool, Shutdown, TraceContext, Wake, outbox, trace::SPANS},
    pod::periodic::{self, Batch},
};
use futures::FutureExt;
use sqlx::{Connection, PgConnection};
use tracing::{info, info_span};

use crate::{
    order::{self, Transition},
    store::orders,
};

/// How often each replica looks for due orders at least: well within the second in which an order must
/// expire. It also looks when the next one is due.
const EVERY: Duration = Duration::from_millis(900);
/// The most orders in one transaction. It then takes milliseconds, so that a buyer who pays or
/// cancels late soon hears that it was too late.
const BATCH: i64 = 500;

/// Expires overdue orders until the process stops.
///
/// # Errors
/// Never; the type is what [`Shutdown::spawn`] takes.
pub async fn run(pool: Pool, wake: Wake, shutdown: Shutdown) -> anyhow::Result<()> {
    let late = "Time between an order's deadline and its expiry.";
    metrics::describe_histogram!("orders_expiry_delay_seconds", metrics::Unit::Seconds, late);
    periodic::repeat("expiry", EVERY, &pool, shutdown, |connection| {
        expire(connection, wake.clone()).boxed()
    })
    .await
}

/// Expires one batch, in one transaction with its events.
async fn expire(connection: &mut PgConnection, wake: Wake) -> Result<Batch, BusError> {
    // Without a transaction, because there is nothing to do most of the time.
    match orders::next_due(connection).await? {
        None => return Ok(Batch::Drained),
        Some(seconds) if seconds > 0.0 => {
            return Ok(Batch::DrainedFor(Duration::try_from_secs_f64(seconds).unwrap_or(EVERY)));
        }
        Some(_) => {}
    }
    let mut tx = connection.begin().await?;
    let now = orders::now(&mut tx).await?;
    let due = orders::lock_due(&mut tx, now, BATCH).await?;
    let expired: Vec<_> = due
        .iter()
        .filter_map(|order| order::decide(order, Transition::Expire, now).ok().flatten())
        .collect();
    if expired.is_empty() {
        tx.rollback().await?;
        return Ok(Batch::Drained);
    }
    orders::save(&mut tx, &expired).await?;
    let events = expired.iter().map(|order| {
        // No request causes it: each begins a trace.
        let span = info_span!(target: SPANS, parent: None, "expire order", order.id = %order.id);
        TraceContext::of_span(&span, None).sync_scope(|| order::event(order.clone()))
    });
    let events = events.collect::<Result<Vec<_>, _>>()?;
    outbox::put_prepared(&mut tx, &events).await?;
    tx.commit().await?;
    wake.wake();
    for (order, event) in expired.iter().zip(&events) {
        let late = (order.updated_at - order.expires_at).as_seconds_f64();
        metrics::histogram!("orders_expiry_delay_seconds").record(late);
        info!(
            notice = "order_expired",
            order.id = %order.id, ticket.id = %order.ticket_id, event.id = %event.id,
            "order expired",
        );
    }
    // The next one may be due any moment.
    Ok(Batch::DrainedFor(Duration::ZERO))
}
