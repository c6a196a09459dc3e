//! Captures the payments of completed orders at the provider, after the commit that completed them.
//! A capture runs at least once; an idempotent provider charges exactly once.

use std::{sync::Arc, time::Duration};

use common::{
    bus::{BusError, Pool, Shutdown},
    events::order::Payment,
    pod::periodic::{self, Batch},
};
use futures::{FutureExt, future::join_all};
use sqlx::{Connection, PgConnection};
use tokio::time::timeout;
use tracing::{error, info};
use uuid::Uuid;

use crate::{payment::Provider, store::orders};

/// How often each replica looks for payments to capture.
const EVERY: Duration = Duration::from_secs(1);
/// How many payments a replica claims at once. Each takes one request to the provider.
const BATCH: i64 = 20;
/// How long the provider may take for one capture. Shorter than the database's timeout for idle
/// transactions, because the transaction that locks the payments waits meanwhile.
const CAPTURE_TIMEOUT: Duration = Duration::from_secs(5);
/// The delay before a failed capture is retried.
const RETRY: Duration = Duration::from_secs(30);

/// Captures payments until the process stops.
///
/// # Errors
/// Never; the type is what [`Shutdown::spawn`] takes.
pub async fn run(
    pool: Pool,
    provider: Arc<dyn Provider>,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let failures = "Failed attempts to capture a payment.";
    metrics::describe_counter!("orders_capture_failures_total", failures);
    periodic::repeat("captures", EVERY, &pool, shutdown, |connection| {
        capture(connection, provider.clone()).boxed()
    })
    .await
}

/// Captures one batch. Its payments stay locked until the outcome of each is stored.
async fn capture(
    connection: &mut PgConnection,
    provider: Arc<dyn Provider>,
) -> Result<Batch, BusError> {
    // Without a transaction, because there is nothing to do most of the time.
    if !orders::owes_captures(connection).await? {
        return Ok(Batch::Drained);
    }
    let mut tx = connection.begin().await?;
    let payments = orders::lock_captures(&mut tx, BATCH).await?;
    if payments.is_empty() {
        tx.rollback().await?;
        return Ok(Batch::Drained);
    }
    let taken = payments.len() as u64;
    let captures = payments.into_iter().map(|(order_id, payment)| {
        let provider = provider.clone();
        async move { (order_id, capture_one(&*provider, order_id, &payment).await) }
    });
    let captured = join_all(captures).await;
    let those =
        |wanted| captured.iter().filter(move |(_, done)| *done == wanted).map(|(id, _)| *id);
    orders::captured(&mut tx, &those(true).collect::<Vec<_>>()).await?;
    orders::capture_later(&mut tx, &those(false).collect::<Vec<_>>(), RETRY).await?;
    tx.commit().await?;
    Ok(Batch::of(taken, BATCH.unsigned_abs()))
}

/// Captures one payment. Returns whether that succeeded.
async fn capture_one(provider: &dyn Provider, order_id: Uuid, payment: &Payment) -> bool {
    let captured = timeout(CAPTURE_TIMEOUT, provider.capture(payment)).await;
    match captured.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer"))) {
        Ok(()) => {
            info!(notice = "routine", order.id = %order_id, payment.reference, "payment captured");
            true
        }
        Err(error) => {
            metrics::counter!("orders_capture_failures_total").increment(1);
            error!(
                order.id = %order_id, payment.reference, error = format!("{error:#}"),
                retry.s = RETRY.as_secs(), "cannot capture the payment, retrying later",
            );
            false
        }
    }
}
