//! The loop of one stream's relay: it waits for its turn, then publishes pages, verifies the stream, and empties
//! expired partitions.

use std::time::Duration;

use time::OffsetDateTime;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};
use tracing::{debug, info, warn};

pub(crate) use super::state::StreamRelay;
use super::{
    cursor::{Cursor, Loaded},
    error::RelayError,
    import, retention,
    session::{Session, bounded},
    wake::{self, NOTIFY_GAP},
};
use crate::{connection::ConnectionState, error::is_locked, shutdown::Shutdown};

/// How often the relay polls the log if nothing wakes it, and how often a waiting relay tries to get its turn.
/// Below the time after which Postgres ends an idle session.
const POLL: Duration = Duration::from_secs(1);
/// How often the stream is verified.
const VERIFY: Duration = Duration::from_secs(5);
/// How often the previous release's outbox is read, which its replicas write to during a rollout.
const IMPORT: Duration = Duration::from_secs(5);
/// How often expired partitions and ranges are removed.
const RETAIN: Duration = Duration::from_secs(60);
/// How long a stopping relay keeps publishing.
const LAST_PUBLISH_TIMEOUT: Duration = Duration::from_secs(2);

impl StreamRelay {
    /// Relays until the process stops.
    pub(crate) async fn run(mut self, shutdown: Shutdown) {
        while !shutdown.has_begun() {
            let Err(error) = self.turn(&shutdown).await else { continue };
            // Whatever was in progress on the session ends with it.
            self.session = None;
            let refused = match &error {
                RelayError::Topology(error) => self.refusal.report(error),
                _ => None,
            };
            let pause = refused.unwrap_or_else(|| {
                self.log_failure(&error);
                self.backoff.pause()
            });
            tokio::select! {
                () = shutdown.begun() => break,
                () = sleep(pause) => {}
            }
        }
    }

    /// Logs a failure at level `warn` once, unless an outage explains it, which is logged elsewhere.
    fn log_failure(&mut self, error: &RelayError) {
        let (stream, failures) = (self.stream.name, self.backoff.failures());
        let outage =
            !self.bus.connection_state().borrow().up || self.pool.database_state().is_away();
        let should_log = if error.may_be_an_outage() {
            self.failing.log_unless_outage(outage)
        } else {
            self.failing.log_once()
        };
        if should_log {
            warn!(stream, %error, failures, "publishing failed, retrying");
        } else {
            debug!(stream, %error, failures, "publishing failed, retrying");
        }
    }

    /// Waits for this relay's turn, then relays while the connection to NATS lasts and nothing fails. A process
    /// that has lost NATS passes the turn to another, which may still have it.
    async fn turn(&mut self, shutdown: &Shutdown) -> Result<(), RelayError> {
        self.session = None;
        let mut link = self.bus.connection_state();
        let session = tokio::select! {
            () = shutdown.begun() => return Ok(()),
            session = self.wait_for_turn(&mut link) => session?,
        };
        let Some(mut session) = session else { return Ok(()) };
        let _listening = self.wake.listen(&self.pool, self.stream.name);
        let cursor = Cursor::load(&mut session.connection, self.stream.name);
        let (cursor, loaded) = bounded(cursor).await?;
        if loaded == Loaded::Restored {
            warn!(
                stream = self.stream.name,
                "the database was restored into another cluster, republishing events that may not have been published"
            );
        }
        (self.cursor, self.session) = (cursor, Some(session));
        (self.publisher, self.lost) = (None, true);
        self.ranges.forget();
        debug!(stream = self.stream.name, "this process publishes to the stream");
        let epoch = link.borrow_and_update().epoch;
        let mut ended = self.relay(&mut link, epoch, shutdown).await;
        if let Err(failure) = ended {
            ended = self.recover(failure).await;
        }
        self.session = None;
        ended
    }

    /// Waits for the lock. `None` if NATS was lost meanwhile. While it waits, it notifies the active relay of this
    /// process's commits.
    async fn wait_for_turn(
        &mut self,
        link: &mut watch::Receiver<ConnectionState>,
    ) -> Result<Option<Session>, RelayError> {
        self.bus.connected().await;
        let mut session = Session::open(&self.pool).await?;
        while !session.lock(self.stream.name).await? {
            let asks_at = Instant::now() + POLL;
            while timeout_at(asks_at, self.wake.woken_here()).await.is_ok() {
                wake::notify(&mut session, self.stream.name).await?;
                sleep(NOTIFY_GAP).await;
            }
            if !link.borrow_and_update().up {
                return Ok(None);
            }
        }
        Ok(Some(session))
    }

    /// Relays until the process stops or the connection to NATS has changed.
    async fn relay(
        &mut self,
        link: &mut watch::Receiver<ConnectionState>,
        epoch: u64,
        shutdown: &Shutdown,
    ) -> Result<(), RelayError> {
        self.remake_if_stopped().await?;
        let now = Instant::now();
        let (mut verify_at, mut retain_at, mut import_at) = (now, now, now);
        loop {
            if link.borrow().epoch != epoch || !link.borrow().up {
                return Ok(());
            }
            if shutdown.has_begun() {
                // The next process would publish the rest; this only spares it the wait.
                let _ = timeout(LAST_PUBLISH_TIMEOUT, self.publish_all()).await;
                return Ok(());
            }
            if Instant::now() >= verify_at {
                self.verify().await?;
                self.refusal.end();
                verify_at = Instant::now() + VERIFY;
                self.log_refilled();
            }
            self.wake.reset();
            let mut more = self.publish_page().await?;
            if self.lost {
                // With a store that does not refill, lost events stay marked in the log.
                self.lost = self.bus.options.refills() && self.refill(verify_at).await?;
                more |= self.lost;
            }
            if Instant::now() >= import_at {
                let imported = self.import().await?;
                more |= imported;
                import_at = Instant::now() + if imported { Duration::ZERO } else { IMPORT };
            }
            if Instant::now() >= retain_at {
                self.retain().await?;
                retain_at = Instant::now() + RETAIN;
            }
            self.backoff.reset();
            if self.failing.end() {
                info!(stream = self.stream.name, "publishing again");
            }
            if !more {
                tokio::select! {
                    () = shutdown.begun() => {}
                    () = self.wake.woken() => {}
                    () = sleep(POLL) => {}
                    _ = link.changed() => {}
                }
            }
        }
    }

    /// Imports a piece of the previous release's outbox. `true` if there may be more.
    async fn import(&mut self) -> Result<bool, RelayError> {
        let connection = &mut self.session()?.connection;
        let waiting = bounded(import::unpublished(connection)).await?;
        let published = bounded(import::published(connection)).await?;
        Ok(waiting + published > 0)
    }

    /// Empties expired partitions, and deletes expired ranges.
    async fn retain(&mut self) -> Result<(), RelayError> {
        let retain_for = self.bus.options.retention;
        let connection = &mut self.session()?.connection;
        match bounded(retention::empty(connection, retain_for, OffsetDateTime::now_utc())).await {
            Ok(slots) if slots.is_empty() => {}
            Ok(slots) => info!(?slots, "emptied expired partitions of the log"),
            // Another session uses it. Days remain before it is reused.
            Err(error) if is_locked(&error) => {
                debug!(%error, "a partition of the log is in use, retrying later");
            }
            Err(error) => return Err(error.into()),
        }
        bounded(retention::forget_ranges(connection, retain_for)).await?;
        Ok(())
    }
}
