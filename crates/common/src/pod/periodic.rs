//! Periodic work, done in batches and postponed while the database is unavailable.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use sqlx::{ConnectOptions, PgConnection, postgres::PgConnectOptions};
use tokio::time::{sleep, timeout};
use tracing::{debug, error, warn};

use bus::Shutdown;
use bus::{BusError, Pool, database_is_away, database_is_gone, set_nodelay};

/// The pause between full batches, so that a backlog does not starve other users of the database.
const PAUSE_AFTER_FULL_BATCH: Duration = Duration::from_millis(10);
/// How long one batch may take, connecting included. The database's own timeouts are shorter; this
/// one covers a database whose machine has vanished silently, which the kernel reports only after a
/// quarter of an hour.
const BATCH_TIMEOUT: Duration = Duration::from_secs(8);

/// The result of one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Batch {
    /// The batch was full: there may be more.
    Full,
    /// Nothing is left.
    Drained,
    /// Nothing is left, and there is no more for this long.
    DrainedFor(Duration),
}

impl Batch {
    /// The result of a batch that did `done` units of work, of at most `batch`.
    #[must_use]
    pub fn of(done: u64, batch: u64) -> Self {
        if done >= batch { Self::Full } else { Self::Drained }
    }
}

/// Runs a batch of work every `every`, sooner if the last one says when the next is due, and full batches back to
/// back, until the process stops. A failed batch is retried at the next interval, so each must be its own
/// transaction.
///
/// It has its own connection to the pool's database, so that requests waiting for the pool do not
/// delay it.
///
/// # Errors
/// Never; the type is what [`Shutdown::spawn`] takes.
pub async fn repeat(
    what: &'static str,
    every: Duration,
    pool: &Pool,
    shutdown: Shutdown,
    mut batch: impl for<'c> FnMut(&'c mut PgConnection) -> BoxFuture<'c, Result<Batch, BusError>>,
) -> anyhow::Result<()> {
    let options = pool.connect_options();
    let (mut connection, mut away) = (None, false);
    while !shutdown.has_begun() {
        let done = timeout(BATCH_TIMEOUT, async {
            let connection = connected(&mut connection, &options).await?;
            batch(connection).await
        });
        let gone = || BusError::Database(sqlx::Error::Protocol("it does not answer".to_owned()));
        let pause = match done.await.unwrap_or_else(|_| Err(gone())) {
            Ok(done) => {
                away = false;
                match done {
                    Batch::Full => PAUSE_AFTER_FULL_BATCH,
                    Batch::Drained => every,
                    Batch::DrainedFor(time) => time.clamp(PAUSE_AFTER_FULL_BATCH, every),
                }
            }
            Err(failed) => {
                // Closing the connection aborts whatever is open on it.
                connection = None;
                match failed {
                    // An outage, which the database's watch logs.
                    BusError::Database(error) if database_is_gone(&error) => {
                        debug!(periodic.task = what, %error, "database unavailable");
                    }
                    // Logged once, not for every batch.
                    BusError::Database(error) if database_is_away(&error) => {
                        if !std::mem::replace(&mut away, true) {
                            warn!(periodic.task = what, %error, "database unavailable");
                        }
                    }
                    error => {
                        error!(periodic.task = what, %error, "periodic task failed, retrying later")
                    }
                }
                every
            }
        };
        tokio::select! {
            () = shutdown.begun() => {}
            () = sleep(pause) => {}
        }
    }
    Ok(())
}

/// Returns the previous connection, or a new one.
async fn connected<'c>(
    connection: &'c mut Option<PgConnection>,
    options: &Arc<PgConnectOptions>,
) -> Result<&'c mut PgConnection, sqlx::Error> {
    let open = match connection.take() {
        Some(open) => open,
        None => {
            let new = options.connect().await?;
            set_nodelay();
            new
        }
    };
    Ok(connection.insert(open))
}
