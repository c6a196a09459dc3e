//! How the active relay learns of commits: those of its own process at once, those of others through Postgres
//! notifications. Without either, it polls once a second.

use std::time::Duration;

use sqlx::{
    Executor, PgPool,
    postgres::{PgListener, PgPoolOptions},
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tracing::debug;

use super::session::{Session, bounded};
use crate::{backoff::RETRY, pool::Pool};

/// The shortest time between two notifications of one process. Each is a transaction for Postgres.
pub(crate) const NOTIFY_GAP: Duration = Duration::from_millis(2);
/// After how long without a notification the connection is checked.
const QUIET: Duration = Duration::from_secs(10);

/// Wakes a relay.
#[derive(Debug)]
pub(crate) struct Woken {
    own: watch::Receiver<()>,
    others: watch::Sender<()>,
    heard: watch::Receiver<()>,
}

impl Woken {
    /// Woken by the commits of its own process.
    pub(crate) fn by(own: watch::Receiver<()>) -> Self {
        let (others, heard) = watch::channel(());
        Self { own, others, heard }
    }

    /// Whether something was committed since [`Self::reset`].
    pub(crate) fn is_woken(&self) -> bool {
        self.own.has_changed().unwrap_or(false) || self.heard.has_changed().unwrap_or(false)
    }

    /// Forgets the commits so far.
    pub(crate) fn reset(&mut self) {
        self.own.borrow_and_update();
        self.heard.borrow_and_update();
    }

    /// Waits for a commit, here or elsewhere.
    pub(crate) async fn woken(&mut self) {
        tokio::select! {
            _ = self.own.changed() => {}
            _ = self.heard.changed() => {}
        }
    }

    /// Waits for a commit in this process.
    pub(crate) async fn woken_here(&mut self) {
        if self.own.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Listens to the commits of other processes until the returned value is dropped.
    pub(crate) fn listen(&self, pool: &Pool, stream: &str) -> Listening {
        let options = (*pool.connect_options()).clone();
        let pool = PgPoolOptions::new().max_connections(1);
        // An outage of the database is logged by the task that watches it.
        let pool = pool.acquire_slow_threshold(Duration::MAX).connect_lazy_with(options);
        let (channel, others) = (channel(stream), self.others.clone());
        Listening(tokio::spawn(async move {
            let mut backoff = RETRY;
            loop {
                match listen_once(&pool, &channel, &others).await {
                    Ok(()) => backoff.reset(),
                    Err(error) => debug!(%error, "cannot listen to the commits of other processes"),
                }
                sleep(backoff.pause()).await;
            }
        }))
    }
}

/// Stops listening when dropped.
#[derive(Debug)]
pub(crate) struct Listening(JoinHandle<()>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Notifies the process with the active relay of a commit.
pub(crate) async fn notify(session: &mut Session, stream: &str) -> Result<(), sqlx::Error> {
    let notify = sqlx::query("select pg_notify($1, '')").bind(channel(stream));
    bounded(notify.execute(&mut session.connection)).await?;
    Ok(())
}

fn channel(stream: &str) -> String {
    format!("bus log {stream}")
}

async fn listen_once(
    pool: &PgPool,
    channel: &str,
    others: &watch::Sender<()>,
) -> Result<(), sqlx::Error> {
    let mut listener = bounded(PgListener::connect_with(pool)).await?;
    bounded(listener.listen(channel)).await?;
    loop {
        match timeout(QUIET, listener.try_recv()).await {
            Ok(Ok(Some(_))) => {
                others.send_replace(());
            }
            // The connection was lost, and notifications with it.
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => {
                bounded(listener.execute("select 1")).await?;
            }
        }
    }
}
