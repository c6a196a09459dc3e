//! The connections of a pool, and one of them on loan.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sqlx::{Connection, PgConnection};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};

/// How long a connection may take to answer a ping. One that does not is dropped.
pub(super) const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a connection may be idle without a ping before its next use. Below that, pings cost more than they
/// find.
const FRESH: Duration = Duration::from_millis(500);
/// The oldest a connection gets, so that load reaches servers that were added.
const MAX_AGE: Duration = Duration::from_mins(30);

/// The connections opened since the pool was created or last renewed.
pub(super) struct Generation {
    pub(super) renewed: Option<Instant>,
    pub(super) permits: Arc<Semaphore>,
    idle: Mutex<Vec<Idle>>,
    /// When one of them last finished work or answered a ping.
    served: Mutex<Option<Instant>>,
}

struct Idle {
    connection: PgConnection,
    opened: Instant,
    since: Instant,
}

/// A connection on loan. When dropped, it is returned once it has answered a ping and rolled back, or closed if
/// that takes too long.
pub(super) struct Lent {
    connection: Option<PgConnection>,
    opened: Instant,
    permit: Option<OwnedSemaphorePermit>,
    generation: Arc<Generation>,
}

impl Generation {
    pub(super) fn new(size: usize, renewed: Option<Instant>) -> Self {
        let permits = Arc::new(Semaphore::new(size));
        Self { renewed, permits, idle: Mutex::default(), served: Mutex::default() }
    }

    /// Closes this generation and returns its idle connections.
    pub(super) fn end(&self) -> Vec<PgConnection> {
        self.permits.close();
        lock(&self.idle).drain(..).map(|idle| idle.connection).collect()
    }

    pub(super) fn served_within(&self, time: Duration) -> bool {
        lock(&self.served).is_some_and(|served| served.elapsed() < time)
    }

    /// An idle connection that is alive, and when it was opened.
    pub(super) async fn reuse(&self) -> Option<(PgConnection, Instant)> {
        loop {
            let mut idle = lock(&self.idle).pop()?;
            if idle.opened.elapsed() >= MAX_AGE {
                continue;
            }
            if idle.since.elapsed() < FRESH || is_alive(&mut idle.connection).await {
                return Some((idle.connection, idle.opened));
            }
            // The others have been idle for longer. Pinging them could cost a second each.
            lock(&self.idle).clear();
        }
    }

    /// Returns a connection that is alive and has no open transaction.
    fn put_back(&self, connection: PgConnection, opened: Instant) {
        let now = Instant::now();
        *lock(&self.served) = Some(now);
        if !self.permits.is_closed() {
            lock(&self.idle).push(Idle { connection, opened, since: now });
        }
    }
}

impl Lent {
    pub(super) fn new(
        connection: PgConnection,
        opened: Instant,
        permit: OwnedSemaphorePermit,
        generation: Arc<Generation>,
    ) -> Self {
        Self { connection: Some(connection), opened, permit: Some(permit), generation }
    }

    /// Returns a connection known to be alive and without an open transaction.
    pub(super) fn give_back(mut self) {
        if let Some(connection) = self.connection.take() {
            self.generation.put_back(connection, self.opened);
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let (Some(mut connection), Some(permit)) = (self.connection.take(), self.permit.take())
        else {
            return;
        };
        // Without a runtime, nothing is left to use it.
        let Ok(runtime) = Handle::try_current() else { return };
        let (generation, opened) = (self.generation.clone(), self.opened);
        runtime.spawn(async move {
            // The ping also rolls back a transaction that was dropped.
            if is_alive(&mut connection).await {
                generation.put_back(connection, opened);
            }
            drop(permit);
        });
    }
}

impl std::ops::Deref for Lent {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.connection.as_ref().expect("only `give_back` and `drop` take the connection")
    }
}

impl std::ops::DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect("only `give_back` and `drop` take the connection")
    }
}

/// Whether a connection answers a ping in time.
pub(crate) async fn is_alive(connection: &mut PgConnection) -> bool {
    matches!(timeout(PING_TIMEOUT, connection.ping()).await, Ok(Ok(())))
}

/// The guard, also after a panic elsewhere.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
