//! Payments of completed orders are captured at the provider, after the commit that completed them: at
//! least once, which is once at a provider that keeps its word.

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
/// How many payments a replica has in hand at once, each with a request to the provider.
const BATCH: i64 = 20;
/// How long the provider may take for one. Below the database's limit on an idle transaction, which
/// holds the payments meanwhile.
const CAPTURE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a payment that could not be captured waits for the next try.
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
    let failures = "Payments that could not be captured, each try.";
    metrics::describe_counter!("orders_capture_failures_total", failures);
    periodic::repeat("captures", EVERY, &pool, shutdown, |connection| {
        capture(connection, provider.clone()).boxed()
    })
    .await
}

/// One batch. Its payments stay locked until it is known what has become of them.
async fn capture(
    connection: &mut PgConnection,
    provider: Arc<dyn Provider>,
) -> Result<Batch, BusError> {
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

/// Whether it was captured.
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
