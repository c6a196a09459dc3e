//! The relay of one stream: waits for its turn, then publishes pages, compares the stream, and looks after
//! what is past its time.

use std::time::Duration;

use anyhow::Context;
use time::OffsetDateTime;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};
use tracing::{debug, info, warn};

use super::{
    cursor::{Cursor, Loaded},
    import,
    publish::Publisher,
    ranges::Ranges,
    remake::Remade,
    retention,
    session::{Session, bounded},
    wake::{self, NOTIFY_GAP, Woken},
};
use crate::{
    connection::{Bus, ConnectionState},
    event::Stream,
    is_locked,
    pool::Pool,
    relay::RETENTION,
    shutdown::Shutdown,
    topology::Refusal,
};

/// How often the log is looked at when nobody wakes the relay: what another process wrote. It is also how
/// often a relay that waits asks for its turn, and below the time after which an idle session ends.
const POLL: Duration = Duration::from_secs(1);
/// How often the stream is compared with what it had confirmed.
const VERIFY: Duration = Duration::from_secs(5);
/// How often partitions and ranges past their time are looked for.
const RETAIN: Duration = Duration::from_secs(60);
/// The longest pause after failures.
const MAX_BACKOFF: Duration = Duration::from_secs(1);
/// How long a stopping relay tries to send off what is there.
const LAST_ROUND: Duration = Duration::from_secs(2);

/// The relay of one stream.
#[derive(Debug)]
pub(crate) struct StreamRelay {
    pub(crate) bus: Bus,
    pool: Pool,
    pub(crate) stream: &'static Stream,
    pub(crate) wake: Woken,
    /// While it is this relay's turn.
    pub(crate) session: Option<Session>,
    pub(crate) cursor: Cursor,
    pub(crate) ranges: Ranges,
    /// Since the stream was verified.
    pub(crate) publisher: Option<Publisher>,
    /// The groups that the stream has had.
    pub(crate) groups: Vec<String>,
    refusal: Refusal,
    pub(crate) remade: Remade,
    /// Whether the last confirmed message was there when it was last looked for.
    pub(crate) last_seen: bool,
    /// Whether ranges may have to be published again.
    pub(crate) lost: bool,
    /// How many events were, since it was last said.
    pub(crate) refilled: u64,
}

impl StreamRelay {
    /// A relay that has not had its turn.
    pub(crate) fn new(
        bus: Bus,
        pool: Pool,
        stream: &'static Stream,
        wake: watch::Receiver<()>,
    ) -> Self {
        Self {
            bus,
            pool,
            stream,
            wake: Woken::by(wake),
            session: None,
            cursor: Cursor::default(),
            ranges: Ranges::default(),
            publisher: None,
            groups: Vec::new(),
            refusal: Refusal::of(stream.name),
            remade: Remade::default(),
            last_seen: false,
            lost: true,
            refilled: 0,
        }
    }

    pub(crate) async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let (mut backoff, mut failures) = (Duration::ZERO, 0_u32);
        while !shutdown.has_begun() {
            let ended = self.turn(&shutdown).await;
            if let Err(error) = ended {
                // Whatever was under way on the session ends with it.
                self.session = None;
                if let Some(pause) = self.refusal.note(&error) {
                    tokio::select! {
                        () = shutdown.begun() => break,
                        () = sleep(pause) => continue,
                    }
                }
                backoff = (backoff * 2).clamp(Duration::from_millis(50), MAX_BACKOFF);
                // Said once for a row of failures: an outage is not news every second.
                if failures == 0 {
                    warn!(
                        stream = self.stream.name,
                        error = format!("{error:#}"),
                        "the relay pauses"
                    );
                } else {
                    debug!(
                        stream = self.stream.name,
                        error = format!("{error:#}"),
                        failures,
                        "the relay still pauses"
                    );
                }
                failures += 1;
                tokio::select! {
                    () = shutdown.begun() => break,
                    () = sleep(backoff.mul_f64(rand::random_range(0.5..=1.0))) => {}
                }
            } else {
                (backoff, failures) = (Duration::ZERO, 0);
            }
        }
        Ok(())
    }

    pub(crate) fn session(&mut self) -> anyhow::Result<&mut Session> {
        self.session.as_mut().context("it is not this relay's turn")
    }

    /// Waits for this relay's turn, and relays for as long as one connection to NATS holds and nothing
    /// fails. A process that has lost NATS gives the turn to one that may not have.
    async fn turn(&mut self, shutdown: &Shutdown) -> anyhow::Result<()> {
        self.session = None;
        let mut link = self.bus.link();
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
                "the database has been restored into another cluster: what it may not have published before is published again"
            );
        }
        (self.cursor, self.session) = (cursor, Some(session));
        (self.publisher, self.lost) = (None, true);
        self.ranges.forget();
        debug!(stream = self.stream.name, "this process relays");
        let epoch = link.borrow_and_update().epoch;
        let mut ended = self.relay(&mut link, epoch, shutdown).await;
        if let Err(failure) = ended {
            ended = self.explain(failure).await;
        }
        self.session = None;
        ended
    }

    /// `None` when NATS was lost meanwhile. While it waits, it tells the relay at work of what this
    /// process commits.
    async fn wait_for_turn(
        &mut self,
        link: &mut watch::Receiver<ConnectionState>,
    ) -> anyhow::Result<Option<Session>> {
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
    ) -> anyhow::Result<()> {
        self.remake_if_stopped().await?;
        let now = Instant::now();
        let (mut verify_at, mut retain_at, mut import_at) = (now, now, now);
        loop {
            if link.borrow().epoch != epoch || !link.borrow().up {
                return Ok(());
            }
            if shutdown.has_begun() {
                // Whatever is left is published by the next process; this only spares it the wait.
                let _ = timeout(LAST_ROUND, self.last_round()).await;
                return Ok(());
            }
            if Instant::now() >= verify_at {
                self.verify().await?;
                self.refusal.end();
                verify_at = Instant::now() + VERIFY;
                self.say_refilled();
            }
            self.wake.reset();
            let mut more = self.publish_page().await?;
            if self.lost {
                self.lost = self.refill(verify_at).await?;
                more |= self.lost;
            }
            if Instant::now() >= import_at {
                let imported = self.import().await?;
                more |= imported;
                import_at = Instant::now() + if imported { Duration::ZERO } else { POLL };
            }
            if Instant::now() >= retain_at {
                self.retain().await?;
                retain_at = Instant::now() + RETAIN;
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

    /// Takes over a piece of what the release before left. `true` when there may be more.
    async fn import(&mut self) -> anyhow::Result<bool> {
        let connection = &mut self.session()?.connection;
        let waiting = bounded(import::unpublished(connection)).await?;
        let published = bounded(import::published(connection)).await?;
        Ok(waiting + published > 0)
    }

    async fn retain(&mut self) -> anyhow::Result<()> {
        let connection = &mut self.session()?.connection;
        match bounded(retention::empty(connection, RETENTION, OffsetDateTime::now_utc())).await {
            Ok(slots) if slots.is_empty() => {}
            Ok(slots) => info!(?slots, "emptied partitions of the log past their retention"),
            // Somebody reads it. It has days.
            Err(error) if is_locked(&error) => {
                debug!(%error, "a partition of the log is in use, emptying it later");
            }
            Err(error) => return Err(error.into()),
        }
        bounded(retention::forget_ranges(connection, RETENTION)).await?;
        Ok(())
    }
}
