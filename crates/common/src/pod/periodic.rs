//! Work that comes back: looked for now and then, done in batches, and put off while the database
//! is away.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use sqlx::{ConnectOptions, PgConnection, postgres::PgConnectOptions};
use tokio::time::{sleep, timeout};
use tracing::{error, warn};

use bus::Shutdown;
use bus::{BusError, Pool, database_is_away};

/// The pause between full batches, so that a backlog does not take the database from everybody
/// else.
const BREATH: Duration = Duration::from_millis(10);
/// How long one batch may take, connecting included. The database's own limits are below; this one is
/// for a database whose machine has vanished without a word, of which the kernel tells only after a
/// quarter of an hour.
const BATCH_TIMEOUT: Duration = Duration::from_secs(8);

/// What came of one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Batch {
    /// It was full: there may be more.
    Full,
    /// That was all.
    Drained,
}

impl Batch {
    /// A round that did so much, of a batch that holds so much.
    #[must_use]
    pub fn of(done: u64, batch: u64) -> Self {
        if done >= batch { Self::Full } else { Self::Drained }
    }
}

/// Does a batch of work each `every`, and one after the other while they are full, until the process
/// stops. One that fails is tried again at the next time, so each must be a transaction of its own.
///
/// It has a connection of its own to the pool's database: requests that wait for one of the pool's do
/// not hold it up.
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
                if done == Batch::Full { BREATH } else { every }
            }
            Err(failed) => {
                // Whatever was open on it ends with it.
                connection = None;
                match failed {
                    // Said once, and not at every round of an outage.
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

/// The connection of last time, or a new one.
async fn connected<'c>(
    connection: &'c mut Option<PgConnection>,
    options: &Arc<PgConnectOptions>,
) -> Result<&'c mut PgConnection, sqlx::Error> {
    let open = match connection.take() {
        Some(open) => open,
        None => options.connect().await?,
    };
    Ok(connection.insert(open))
}
