//! Forgets idempotency keys that are past their time, so that their table stays bounded.

use std::time::Duration;

use common::pod::shutdown::Shutdown;
use sqlx::PgPool;
use tokio::time::sleep;
use tracing::{debug, warn};

use crate::store;

/// How long a key is kept at least: the day within which a client is expected to have repeated a
/// request whose answer it never saw.
const RETENTION: Duration = Duration::from_hours(24);
/// How often to look. Keys may live this much longer than [`RETENTION`].
const EVERY: Duration = Duration::from_mins(1);
/// How many keys one statement deletes: short locks, and a transaction log in small pieces.
const BATCH: i64 = 1_000;
/// The pause between full batches: at most 100,000 keys a second, well above what is posted.
const PAUSE: Duration = Duration::from_millis(10);

/// Deletes keys in batches until the process is asked to stop. A database that is away is only
/// logged: the next round finds the same keys.
///
/// # Errors
/// Never; the type is what [`Shutdown::spawn`] takes.
pub(crate) async fn run(pool: PgPool, shutdown: Shutdown) -> anyhow::Result<()> {
    let mut pause = EVERY;
    loop {
        tokio::select! {
            () = shutdown.begun() => return Ok(()),
            () = sleep(pause) => {}
        }
        pause = match prune(&pool).await {
            Ok(full) if full >= BATCH.unsigned_abs() => PAUSE,
            Ok(pruned) => {
                debug!(idempotency_keys.pruned = pruned, "forgot idempotency keys");
                EVERY
            }
            Err(error) => {
                warn!(%error, "cannot prune idempotency keys");
                EVERY
            }
        };
    }
}

async fn prune(pool: &PgPool) -> Result<u64, sqlx::Error> {
    store::prune_keys(&mut *pool.acquire().await?, RETENTION, BATCH).await
}
