//! Connections to Postgres, lent for one piece of work that must end in time. Nothing here waits for
//! a peer that has vanished: not the work, not the return of its connection, not the next in line.
//!
//! This is not sqlx's pool. That one asks a connection whether it is alive when it comes back, with
//! no bound on the answer, and counts it against the pool's size until the kernel gives up on it a
//! quarter of an hour later. After a failover that is every connection there is.

mod lent;

use std::{
    fmt, io,
    sync::{Arc, Mutex},
    time::Duration,
};

use sqlx::{ConnectOptions, Connection, PgConnection, PgPool, postgres::PgConnectOptions};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep, timeout},
};
use tracing::debug;

use crate::database_is_away;
pub(crate) use lent::is_alive;
use lent::{Generation, Lent, PING_TIMEOUT, lock};

/// How long to wait for a connection: for one to come back, to be found alive, or to be opened.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long one piece of work may take: the longest statement (5 s), and a little for the others.
/// With [`ACQUIRE_TIMEOUT`], below the 10 s of a whole HTTP request.
const WORK_TIMEOUT: Duration = Duration::from_secs(6);
/// How long a renewed pool is not renewed again. By then whoever had a connection before has given it
/// back, so that there are never more than twice as many connections as the pool is large.
const RENEWED: Duration = Duration::from_secs(10);
/// The pause between two tries to open a connection, while someone waits for it.
const CONNECT_RETRY: Duration = Duration::from_millis(50);

/// A bounded number of connections to one database. Clones share them.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    options: Arc<PgConnectOptions>,
    size: usize,
    current: Mutex<Arc<Generation>>,
}

impl Pool {
    /// A pool of at most `size` connections, each opened when it is first needed.
    #[must_use]
    pub fn new(options: PgConnectOptions, size: usize) -> Self {
        let current = Mutex::new(Arc::new(Generation::new(size, None)));
        Self { shared: Arc::new(Shared { options: Arc::new(options), size, current }) }
    }

    /// How its connections are opened.
    #[must_use]
    pub fn connect_options(&self) -> Arc<PgConnectOptions> {
        self.shared.options.clone()
    }

    /// Lends a connection for this work, which has 6 s once it has the connection.
    ///
    /// # Errors
    /// The work's own; and [`sqlx::Error::PoolTimedOut`] when no connection could be had within 3 s,
    /// [`sqlx::Error::Io`] when the work did not end in time.
    pub async fn run<T, E: From<sqlx::Error>>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut lent = self.acquire().await?;
        let done = timeout(WORK_TIMEOUT, work(&mut lent)).await;
        done.unwrap_or_else(|_| Err(late(WORK_TIMEOUT).into()))
    }

    /// Does this work in a transaction, which has 6 s once it has a connection: committed when the work
    /// succeeds. When it fails, it is rolled back before this returns, so that no lock outlasts it.
    ///
    /// # Errors
    /// As of [`Self::run`]. Whether a commit that was late has happened is not known.
    pub async fn transaction<T, E: From<sqlx::Error>>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        self.transaction_within(WORK_TIMEOUT, "begin", work).await
    }

    /// The same with another bound, and with another statement to begin with.
    ///
    /// # Errors
    /// As of [`Self::transaction`].
    pub async fn transaction_within<T, E: From<sqlx::Error>>(
        &self,
        limit: Duration,
        begin: &'static str,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut lent = self.acquire().await?;
        let done = timeout(limit, async {
            let mut tx = lent.begin_with(begin).await?;
            match work(&mut tx).await {
                Ok(done) => tx.commit().await.map(|()| done).map_err(E::from),
                Err(error) => {
                    // That it fails is no news: the connection is gone, and the transaction with it.
                    let _ = tx.rollback().await;
                    Err(error)
                }
            }
        });
        match done.await {
            Ok(Ok(done)) => {
                // A commit was answered: nothing is open on it, and it is alive.
                lent.give_back();
                Ok(done)
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(late(limit).into()),
        }
    }

    async fn acquire(&self) -> Result<Lent, sqlx::Error> {
        let lent = async {
            loop {
                let generation = self.generation();
                match generation.permits.clone().acquire_owned().await {
                    Ok(permit) => return self.lend(generation, permit).await,
                    Err(_) if self.is_closed() => return Err(sqlx::Error::PoolClosed),
                    // Renewed while we waited.
                    Err(_) => {}
                }
            }
        };
        timeout(ACQUIRE_TIMEOUT, lent).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    /// Whether a connection has done its work within this time: a pool that is busy serves, too.
    #[must_use]
    pub fn served_within(&self, time: Duration) -> bool {
        self.generation().served_within(time)
    }

    /// Leaves all connections to those who have them, and begins with none: to be called when
    /// connections have fallen silent while new ones are answered. Whoever waits gets a new one.
    ///
    /// Does nothing, and says so by `false`, within 10 s of the last time.
    #[must_use]
    pub fn renew(&self) -> bool {
        let old = {
            let mut current = lock(&self.shared.current);
            let lately = current.renewed.is_some_and(|renewed| renewed.elapsed() < RENEWED);
            if lately || current.permits.is_closed() {
                return false;
            }
            let new = Generation::new(self.shared.size, Some(Instant::now()));
            std::mem::replace(&mut *current, Arc::new(new))
        };
        old.end();
        true
    }

    /// Lends no more. Waits for what is lent to come back; the caller bounds that.
    pub async fn close(&self) {
        let generation = self.generation();
        let idle = generation.end();
        for connection in idle {
            let _ = timeout(PING_TIMEOUT, connection.close()).await;
        }
        while generation.permits.available_permits() < self.shared.size {
            sleep(CONNECT_RETRY).await;
        }
    }

    fn is_closed(&self) -> bool {
        self.generation().permits.is_closed()
    }

    fn generation(&self) -> Arc<Generation> {
        lock(&self.shared.current).clone()
    }

    /// A connection that was idle and is alive, or a new one.
    async fn lend(
        &self,
        generation: Arc<Generation>,
        permit: OwnedSemaphorePermit,
    ) -> Result<Lent, sqlx::Error> {
        if let Some((connection, opened)) = generation.reuse().await {
            return Ok(Lent::new(connection, opened, permit, generation));
        }
        loop {
            match self.shared.options.connect().await {
                Ok(new) => return Ok(Lent::new(new, Instant::now(), permit, generation)),
                // As while it restarts. Who waits gives up in time.
                Err(error) if database_is_away(&error) => debug!(%error, "cannot connect"),
                Err(error) => return Err(error),
            }
            sleep(CONNECT_RETRY).await;
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not its options: they have the password.
        f.debug_struct("Pool").field("size", &self.shared.size).finish_non_exhaustive()
    }
}

/// A pool of the same size to the same database.
impl From<PgPool> for Pool {
    fn from(pool: PgPool) -> Self {
        let size = pool.options().get_max_connections() as usize;
        Self::new(PgConnectOptions::clone(&pool.connect_options()), size)
    }
}

fn late(limit: Duration) -> sqlx::Error {
    let message = format!("the database did not answer within {} s", limit.as_secs());
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, message))
}
