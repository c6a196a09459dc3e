//! How the relay at work hears of commits: those of its own process at once, those of others through
//! Postgres. Without either it looks by itself once a second.

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
use crate::pool::Pool;

/// The least time between two notifications of one process. Each is a transaction for Postgres.
pub(crate) const NOTIFY_GAP: Duration = Duration::from_millis(2);
/// How long nothing may be heard before the connection is asked whether it is alive.
const QUIET: Duration = Duration::from_secs(10);
/// The pause before listening again after a failure.
const PAUSE: Duration = Duration::from_secs(1);

/// What wakes a relay.
#[derive(Debug)]
pub(crate) struct Woken {
    own: watch::Receiver<()>,
    others: watch::Sender<()>,
    heard: watch::Receiver<()>,
}

impl Woken {
    /// Woken by the commits of its own process, for now.
    pub(crate) fn by(own: watch::Receiver<()>) -> Self {
        let (others, heard) = watch::channel(());
        Self { own, others, heard }
    }

    /// Whether something was committed since [`Self::reset`].
    pub(crate) fn is_woken(&self) -> bool {
        self.own.has_changed().unwrap_or(false) || self.heard.has_changed().unwrap_or(false)
    }

    /// From here on.
    pub(crate) fn reset(&mut self) {
        self.own.borrow_and_update();
        self.heard.borrow_and_update();
    }

    /// Waits until something is committed, here or elsewhere.
    pub(crate) async fn woken(&mut self) {
        tokio::select! {
            _ = self.own.changed() => {}
            _ = self.heard.changed() => {}
        }
    }

    /// Waits until something is committed in this process.
    pub(crate) async fn woken_here(&mut self) {
        if self.own.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Listens to other processes for as long as what is returned lives.
    pub(crate) fn listen(&self, pool: &Pool, stream: &str) -> Listening {
        let options = (*pool.connect_options()).clone();
        let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(options);
        let (channel, others) = (channel(stream), self.others.clone());
        Listening(tokio::spawn(async move {
            loop {
                if let Err(error) = hear(&pool, &channel, &others).await {
                    debug!(%error, "cannot hear of other processes' events");
                }
                sleep(PAUSE).await;
            }
        }))
    }
}

/// Ends the listening when dropped.
#[derive(Debug)]
pub(crate) struct Listening(JoinHandle<()>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Tells the process whose relay is at work that something was committed.
pub(crate) async fn notify(session: &mut Session, stream: &str) -> Result<(), sqlx::Error> {
    let notify = sqlx::query("select pg_notify($1, '')").bind(channel(stream));
    bounded(notify.execute(&mut session.connection)).await?;
    Ok(())
}

fn channel(stream: &str) -> String {
    format!("bus log {stream}")
}

async fn hear(pool: &PgPool, channel: &str, others: &watch::Sender<()>) -> Result<(), sqlx::Error> {
    let mut listener = bounded(PgListener::connect_with(pool)).await?;
    bounded(listener.listen(channel)).await?;
    loop {
        match timeout(QUIET, listener.try_recv()).await {
            Ok(Ok(Some(_))) => {
                others.send_replace(());
            }
            // The connection was lost, and what was said meanwhile.
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => {
                bounded(listener.execute("select 1")).await?;
            }
        }
    }
}
