//! A pool of Postgres connections in which everything has a timeout: the work on a connection, its return to the
//! pool, and the wait for the next one. Nothing waits for a peer that has vanished.
//!
//! It is not sqlx's pool. That one pings a returned connection without a timeout, and counts it against the pool's
//! size until the kernel gives up on it a quarter of an hour later. After a failover, that is every connection.

mod lent;
mod nodelay;

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
use tracing::{Span, debug};

use crate::{
    backoff::Backoff, error::database_is_away, outage::DatabaseState, spans, trace::TraceContext,
};
use lent::{Generation, Lent, PING_TIMEOUT};
pub(crate) use lent::{is_alive, lock};
pub use nodelay::set_nodelay;

/// How long to wait for a connection to be returned, checked, or opened.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// How soon a renewed pool can be renewed again. By then every older connection has been returned, so that there
/// are never more than twice as many connections as the pool's size.
const RENEWED: Duration = Duration::from_secs(10);
/// The pause between attempts to open a connection, while a caller waits for it.
const CONNECT_RETRY: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(100));
/// How often [`Pool::close`] checks whether every connection was returned.
const CLOSE_POLL: Duration = Duration::from_millis(50);

/// A limited number of connections to one database. Clones share them.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    options: Arc<PgConnectOptions>,
    size: usize,
    current: Mutex<Arc<Generation>>,
    database_state: DatabaseState,
}

impl Pool {
    /// How long the work on a connection may take: the longest statement (5 s) and some slack. With the wait
    /// for a connection (3 s), it fits into an HTTP request of 10 s.
    pub const WORK_TIMEOUT: Duration = Duration::from_secs(6);

    /// A pool of at most `size` connections, each opened when it is first needed.
    #[must_use]
    pub fn new(options: PgConnectOptions, size: usize) -> Self {
        let current = Mutex::new(Arc::new(Generation::new(size, None)));
        Self {
            shared: Arc::new(Shared {
                options: Arc::new(options),
                size,
                current,
                database_state: DatabaseState::default(),
            }),
        }
    }

    /// The options that its connections are opened with.
    #[must_use]
    pub fn connect_options(&self) -> Arc<PgConnectOptions> {
        self.shared.options.clone()
    }

    /// Runs `work` on a connection, for at most 6 s once it has one.
    ///
    /// # Errors
    /// The work's own; [`sqlx::Error::PoolTimedOut`] if there was no connection within 3 s;
    /// [`sqlx::Error::Io`] if the work took too long.
    pub async fn run<T, E: From<sqlx::Error>>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut lent = self.acquire().await?;
        let done = timeout(Self::WORK_TIMEOUT, work(&mut lent)).await;
        done.unwrap_or_else(|_| Err(late(Self::WORK_TIMEOUT).into()))
    }

    /// Runs `work` in a transaction, for at most 6 s once it has a connection. It commits if the work
    /// succeeds. If the work fails, it rolls back before this returns, so that no lock outlasts it.
    ///
    /// # Errors
    /// As [`Self::run`]. After a timeout, the transaction may or may not have committed.
    pub async fn transaction<T, E: From<sqlx::Error>>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        let _span = self.transaction_span();
        self.transaction_within(Self::WORK_TIMEOUT, "begin", work).await
    }

    /// A span for a transaction on this database as part of the current trace, from now until it is dropped:
    /// for work that waits for a transaction which another task runs. [`Self::transaction`] makes its own.
    #[must_use]
    pub fn transaction_span(&self) -> Span {
        match TraceContext::current() {
            Some(trace) => spans::transaction(&self.shared.options, trace, None),
            None => Span::none(),
        }
    }

    /// The same with another timeout and another `begin` statement.
    ///
    /// # Errors
    /// As [`Self::transaction`].
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
                    // If it fails, the connection is gone, and the transaction with it.
                    let _ = tx.rollback().await;
                    Err(error)
                }
            }
        });
        match done.await {
            Ok(Ok(done)) => {
                // The commit was answered, so the connection is alive and has no open transaction.
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

    /// Records whether the database is unavailable, for a caller who watches it and logs when its outages begin and
    /// end. From then on, work that fails because of an outage logs at level `debug` only.
    pub fn watched(&self, is_away: bool) {
        self.shared.database_state.set(is_away);
    }

    /// Whether the database is unavailable, as last recorded by [`Self::watched`].
    pub(crate) fn database_state(&self) -> &DatabaseState {
        &self.shared.database_state
    }

    /// Whether work on any connection succeeded within this time. A busy pool counts as serving.
    #[must_use]
    pub fn served_within(&self, time: Duration) -> bool {
        self.generation().served_within(time)
    }

    /// Abandons all connections and opens new ones: for when connections no longer answer but new ones do.
    /// Waiting callers get a new one.
    ///
    /// Does nothing and returns `false` within 10 s of the last renewal.
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

    /// Closes the pool and waits until every connection is returned. The caller sets a timeout.
    pub async fn close(&self) {
        let generation = self.generation();
        let idle = generation.end();
        for connection in idle {
            let _ = timeout(PING_TIMEOUT, connection.close()).await;
        }
        while generation.permits.available_permits() < self.shared.size {
            sleep(CLOSE_POLL).await;
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
        let mut backoff = CONNECT_RETRY;
        loop {
            match self.shared.options.connect().await {
                Ok(new) => {
                    set_nodelay();
                    return Ok(Lent::new(new, Instant::now(), permit, generation));
                }
                // For example, while Postgres restarts. The caller's timeout ends this.
                Err(error) if database_is_away(&error) => debug!(%error, "cannot connect"),
                Err(error) => return Err(error),
            }
            sleep(backoff.pause()).await;
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not its options: they hold the password.
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
