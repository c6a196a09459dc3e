//! The connections of a pool, and one of them in somebody's hands.

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

/// How long a connection may take to say that it is alive. One that does not is dropped.
pub(super) const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a connection may idle before it is asked whether it is alive. Below that the question
/// would cost more than it finds.
const FRESH: Duration = Duration::from_millis(500);
/// How old a connection may become, so that load finds its way to servers that were added.
const MAX_AGE: Duration = Duration::from_mins(30);

/// The connections that were opened since the pool began, or was last renewed.
pub(super) struct Generation {
    pub(super) renewed: Option<Instant>,
    pub(super) permits: Arc<Semaphore>,
    idle: Mutex<Vec<Idle>>,
    /// When one of them last finished its work, or was found alive.
    served: Mutex<Option<Instant>>,
}

struct Idle {
    connection: PgConnection,
    opened: Instant,
    since: Instant,
}

/// A connection of the pool that somebody has. Dropped, it goes back once it is known to be alive and
/// rolled back, or is closed when that takes too long.
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

    /// Lends no more. Returns what was idle.
    pub(super) fn end(&self) -> Vec<PgConnection> {
        self.permits.close();
        lock(&self.idle).drain(..).map(|idle| idle.connection).collect()
    }

    pub(super) fn served_within(&self, time: Duration) -> bool {
        lock(&self.served).is_some_and(|served| served.elapsed() < time)
    }

    /// A connection that was idle and is alive, with when it was opened.
    pub(super) async fn reuse(&self) -> Option<(PgConnection, Instant)> {
        loop {
            let mut idle = lock(&self.idle).pop()?;
            if idle.opened.elapsed() >= MAX_AGE {
                continue;
            }
            if idle.since.elapsed() < FRESH || is_alive(&mut idle.connection).await {
                return Some((idle.connection, idle.opened));
            }
            // The others have been idle for longer, and are not worth a second each to ask.
            lock(&self.idle).clear();
        }
    }

    /// Takes back a connection that is alive and has nothing open.
    fn keep(&self, connection: PgConnection, opened: Instant) {
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

    /// Gives back a connection that is known to be alive and to have nothing open.
    pub(super) fn give_back(mut self) {
        if let Some(connection) = self.connection.take() {
            self.generation.keep(connection, self.opened);
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let (Some(mut connection), Some(permit)) = (self.connection.take(), self.permit.take())
        else {
            return;
        };
        // Without a runtime, nobody is left to use it.
        let Ok(runtime) = Handle::try_current() else { return };
        let (generation, opened) = (self.generation.clone(), self.opened);
        runtime.spawn(async move {
            // A transaction that was dropped is rolled back by this, too.
            if is_alive(&mut connection).await {
                generation.keep(connection, opened);
            }
            drop(permit);
        });
    }
}

impl std::ops::Deref for Lent {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.connection.as_ref().expect("it is taken only by who consumes or drops this")
    }
}

impl std::ops::DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect("it is taken only by who consumes or drops this")
    }
}

/// Whether a connection answers in time.
pub(crate) async fn is_alive(connection: &mut PgConnection) -> bool {
    matches!(timeout(PING_TIMEOUT, connection.ping()).await, Ok(Ok(())))
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
