//! The connection to NATS: it notices a dead server within seconds, reconnects forever, and closes
//! without losing what was written.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, ConnectOptions, Event, ServerAddr, jetstream};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tracing::{debug, info, warn};

use crate::{
    backoff::RETRY,
    client_id::ClientId,
    options::{Options, OptionsError, servers},
    shutdown::Shutdown,
    user::{self, Credentials, User},
};

/// How often the client pings. It gives a connection up when a third ping is due and two are
/// unanswered: 9 s after the last data from the server. The client's default takes minutes.
///
/// This detects a connection on which nothing arrives. If only the other direction is lost, the
/// server must detect it, because its own data satisfies the client. With the same interval the
/// server takes up to 12 s, because it skips a ping if it has received something recently.
const PING_INTERVAL: Duration = Duration::from_secs(3);
/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the server may take to answer a request.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// How long each step of closing may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How many commands may wait to be written. A full queue slows the caller down.
const CLIENT_CAPACITY: usize = 4096;

/// Whether NATS is connected, and on which connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnectionState {
    /// Connected now.
    pub up: bool,
    /// The number of the connection: one more with each reconnect.
    pub epoch: u64,
}

/// Why a connection cannot be made, now or later.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// An option is out of bounds: correct it.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The client refuses the options, such as a certificate that it cannot read.
    #[error("the NATS client cannot start: {0}")]
    Client(#[from] async_nats::ConnectError),
}

/// The connection was closed and will not come back. Ends the process.
#[derive(Debug, thiserror::Error)]
#[error("the connection to NATS was closed permanently")]
struct ClosedForGood;

/// A connection to NATS with JetStream. Clones share it.
#[derive(Debug, Clone)]
pub struct Bus {
    /// The underlying client.
    pub client: Client,
    /// The client's JetStream context.
    pub jetstream: jetstream::Context,
    /// The name of this process.
    pub client_id: ClientId,
    pub(crate) options: Arc<Options>,
    link: watch::Receiver<ConnectionState>,
    closed: Arc<Closed>,
}

#[derive(Debug)]
struct Closed {
    expected: AtomicBool,
    event: watch::Receiver<bool>,
}

impl Bus {
    /// Connects in the background, under the process's client id: a process can start while NATS is down.
    /// A connection that closes permanently ends the process.
    ///
    /// # Errors
    /// When an option is out of bounds, such as a malformed URL or an unreadable certificate. An
    /// unreachable server is no error.
    pub async fn connect(options: &Options, shutdown: &Shutdown) -> Result<Self, ConnectError> {
        options.check()?;
        let (link_sender, link) = watch::channel(ConnectionState::default());
        let (closed_sender, closed) = watch::channel(false);
        let servers = servers(&options.servers)?;
        let reporter =
            Reporter { link: link_sender, closed: closed_sender, away_since: Mutex::default() };
        let connect = connect_options(options, &servers).event_callback(move |event| {
            reporter.record(&event);
            async {}
        });
        metrics::gauge!("bus_connected").set(0);
        let client = connect.connect(servers).await?;
        let jetstream = jetstream::context::ContextBuilder::new()
            .timeout(REQUEST_TIMEOUT)
            .ack_timeout(REQUEST_TIMEOUT)
            .build(client.clone());
        let closed = Arc::new(Closed { expected: AtomicBool::new(false), event: closed });
        let bus = Self {
            client,
            jetstream,
            client_id: options.client_id.clone(),
            options: Arc::new(options.clone()),
            link,
            closed,
        };
        let (watched, stopping) = (bus.closed.clone(), shutdown.clone());
        shutdown.spawn("nats connection", async move {
            let mut event = watched.event.clone();
            tokio::select! {
                () = stopping.begun() => Ok(()),
                closed = event.wait_for(|closed| *closed) => {
                    if closed.is_err() || watched.expected.load(Ordering::Relaxed) {
                        return Ok(());
                    }
                    Err(ClosedForGood)
                }
            }
        });
        Ok(bus)
    }

    /// The state of the connection, to watch.
    #[must_use]
    pub fn connection_state(&self) -> watch::Receiver<ConnectionState> {
        self.link.clone()
    }

    /// Whether the connection with this number is still up.
    ///
    /// An ack must not be sent on a later connection than its message came on: the server identifies the
    /// message by its sequence. If the stream lost its end in between, that sequence is another message's.
    pub(crate) fn is_on(&self, epoch: u64) -> bool {
        *self.link.borrow() == ConnectionState { up: true, epoch }
    }

    /// Waits until NATS is connected. Returns the number of the connection.
    pub async fn connected(&self) -> u64 {
        let mut link = self.link.clone();
        let epoch = link.wait_for(|link| link.up).await.map(|link| link.epoch);
        match epoch {
            Ok(epoch) => epoch,
            // The client is gone, and with it the callback: nothing will ever connect again.
            Err(_) => std::future::pending().await,
        }
    }

    /// Closes the connection once everything written has reached the server. Each step has a timeout.
    /// Whatever is lost then is redelivered or republished, because it was not acknowledged.
    pub async fn close(&self) {
        self.closed.expected.store(true, Ordering::Relaxed);
        if self.link.borrow().up && timeout(CLOSE_TIMEOUT, self.client.flush()).await.is_err() {
            warn!("NATS did not accept the last messages in time");
        }
        // Waits for room in the client's queue, which nobody reads while there is no connection.
        if !matches!(timeout(CLOSE_TIMEOUT, self.client.drain()).await, Ok(Ok(()))) {
            return;
        }
        // `drain` only queues the request; the closed event says when it is done.
        let mut event = self.closed.event.clone();
        if timeout(CLOSE_TIMEOUT, event.wait_for(|closed| *closed)).await.is_err() {
            debug!("the connection to NATS did not close in time");
        }
    }
}

fn connect_options(options: &Options, servers: &[ServerAddr]) -> ConnectOptions {
    let mut connect = ConnectOptions::new()
        .name(options.client_id.as_str())
        .ping_interval(PING_INTERVAL)
        .connection_timeout(CONNECT_TIMEOUT)
        .request_timeout(Some(REQUEST_TIMEOUT))
        .client_capacity(CLIENT_CAPACITY)
        .retry_on_initial_connect()
        .max_reconnects(None)
        .reconnect_delay_callback(|attempts| {
            RETRY.after(u32::try_from(attempts).unwrap_or(u32::MAX))
        });
    // The client ignores a user in a URL.
    if let (None, Some((user, password))) = (&options.user, user::in_urls(servers)) {
        connect = connect.user_and_password(user, password);
    }
    if let Some(User { name, credentials }) = &options.user {
        // A prefix of its own, so that the server can forbid other users to subscribe to this user's replies.
        connect = connect.custom_inbox_prefix(format!("_INBOX.{name}"));
        connect = match credentials {
            Credentials::Password(password) => {
                connect.user_and_password(name.clone(), password.clone())
            }
            Credentials::Seed(seed) => connect.nkey(seed.expose().to_owned()),
        };
    }
    if let Some(file) = &options.certificate_authority {
        connect = connect.add_root_certificates(file.clone()).require_tls(true);
    }
    connect
}

/// Reports and logs the state of the connection.
struct Reporter {
    link: watch::Sender<ConnectionState>,
    closed: watch::Sender<bool>,
    /// When the current outage was logged.
    away_since: Mutex<Option<Instant>>,
}

impl Reporter {
    fn record(&self, event: &Event) {
        match event {
            Event::Connected => {
                self.link.send_modify(|link| {
                    *link = ConnectionState { up: true, epoch: link.epoch + 1 };
                });
                metrics::gauge!("bus_connected").set(1);
                match self.away_since().take() {
                    Some(since) => {
                        let seconds = since.elapsed().as_secs();
                        info!(
                            notice = "outage",
                            outage.seconds = seconds,
                            "connected to NATS again"
                        );
                    }
                    None => info!(notice = "routine", "connected to NATS"),
                }
            }
            Event::Disconnected => {
                self.is_down();
                let mut since = self.away_since();
                if since.is_none() {
                    *since = Some(Instant::now());
                    warn!(notice = "outage", "disconnected from NATS, reconnecting");
                }
            }
            Event::Closed => {
                self.is_down();
                self.closed.send_replace(true);
            }
            Event::LameDuckMode => info!("the NATS server is shutting down soon"),
            Event::Draining => debug!("draining the connection to NATS"),
            Event::SlowConsumer(subscription) => warn!(subscription, "slow consumer"),
            Event::ServerError(error) => warn!(%error, "error from the NATS server"),
            Event::ClientError(error) => debug!(%error, "error in the NATS client"),
        }
    }

    fn is_down(&self) {
        self.link.send_modify(|link| link.up = false);
        metrics::gauge!("bus_connected").set(0);
    }

    fn away_since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.away_since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
