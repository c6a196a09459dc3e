//! The connection to NATS: short clocks, endless reconnection, and an end that loses nothing.

use std::{
    fmt,
    path::PathBuf,
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use async_nats::{Client, ConnectOptions, Event, ServerAddr, jetstream};
use tokio::{sync::watch, time::timeout};
use tracing::{debug, info, warn};

use crate::{
    client_id::ClientId,
    shutdown::Shutdown,
    user::{self, Proof, User},
};

/// How often the client asks a silent server whether it is there. When it is time for the third
/// question and two were not answered, the connection has ended: 9 s after the server's last word;
/// the client's default takes minutes.
///
/// That finds a connection on which nothing comes in. One on which nothing goes out, the server has to
/// find: what it sends keeps the client content. It puts off its first question by up to an interval
/// when it has heard something lately, so with the same interval it takes up to 12 s.
const PING_INTERVAL: Duration = Duration::from_secs(3);
/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the server may take to answer a request.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest pause between attempts to reconnect.
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(1);
/// How long each step of closing may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How many commands may wait to be written. A full queue slows the caller down.
const CLIENT_CAPACITY: usize = 4096;

/// Whether the server can be reached, and how often that has begun anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnectionState {
    /// Connected now.
    pub up: bool,
    /// The number of the connection; grows with each one.
    pub epoch: u64,
}

/// Where NATS is, and as whom to speak to it.
#[derive(Clone)]
pub struct Options {
    /// The URLs of one server or of several of one cluster, with commas between, such as
    /// `nats://a:4222,nats://b:4222`. Each is tried in turn.
    pub servers: String,
    /// The user, when the server asks for one.
    pub user: Option<User>,
    /// The names of streams that are in the accounts of others, and imported from there. See
    /// [`Bus::imports`].
    pub imported: Vec<String>,
    /// A PEM file with the authority that signed the server's certificate; turns TLS on.
    pub certificate_authority: Option<PathBuf>,
    /// How many copies of a new stream the cluster keeps: 1, 3 or 5.
    pub stream_replicas: usize,
    /// The name of this process.
    pub client_id: ClientId,
    /// The node that it runs on, to tell a duplicate where its twin is. Empty when unknown.
    pub node: String,
}

/// Without what may be a password.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("client_id", &self.client_id).finish_non_exhaustive()
    }
}

/// The servers that a text names: one URL, or several with commas between.
///
/// # Errors
/// When it names none, or a part is not the URL of a NATS server.
pub fn servers(text: &str) -> anyhow::Result<Vec<ServerAddr>> {
    let urls = text.split(',').map(str::trim).filter(|url| !url.is_empty());
    let servers: Vec<ServerAddr> = urls
        .enumerate()
        .map(|(at, url)| {
            // By its number: it may hold a password.
            let server: ServerAddr = url.parse().with_context(|| {
                format!("number {} of those given is not the URL of a NATS server", at + 1)
            })?;
            ensure!(!server.host().is_empty(), "number {} of those given names no host", at + 1);
            Ok(server)
        })
        .collect::<anyhow::Result<_>>()?;
    ensure!(!servers.is_empty(), "no URL of a NATS server is given");
    Ok(servers)
}

/// A connection to NATS with JetStream. Clones share it.
#[derive(Debug, Clone)]
pub struct Bus {
    /// The client underneath.
    pub client: Client,
    /// JetStream on it.
    pub jetstream: jetstream::Context,
    /// How many copies of a new stream to keep.
    pub replicas: usize,
    /// The name of this process.
    pub client_id: ClientId,
    /// The node that it runs on; empty when unknown.
    pub node: String,
    pub(crate) imported: Arc<[String]>,
    link: watch::Receiver<ConnectionState>,
    closed: Arc<Closed>,
}

#[derive(Debug)]
struct Closed {
    expected: AtomicBool,
    event: watch::Receiver<bool>,
}

impl Bus {
    /// Connects under the process's client id, in the background: a broker that is away keeps
    /// nobody from starting. A connection that ends for good ends the process.
    ///
    /// # Errors
    /// When the settings make no sense: an unreadable certificate, a malformed URL.
    pub async fn connect(options: &Options, shutdown: &Shutdown) -> anyhow::Result<Self> {
        let (link_sender, link) = watch::channel(ConnectionState::default());
        let (closed_sender, closed) = watch::channel(false);
        let servers = servers(&options.servers)?;
        let connect = connect_options(options)?.event_callback(move |event| {
            note(&event, &link_sender, &closed_sender);
            async {}
        });
        metrics::gauge!("bus_connected").set(0);
        let client = connect.connect(servers).await.context("cannot use NATS")?;
        let jetstream = jetstream::context::ContextBuilder::new()
            .timeout(REQUEST_TIMEOUT)
            .ack_timeout(REQUEST_TIMEOUT)
            .build(client.clone());
        let closed = Arc::new(Closed { expected: AtomicBool::new(false), event: closed });
        let bus = Self {
            client,
            jetstream,
            replicas: options.stream_replicas,
            client_id: options.client_id.clone(),
            node: options.node.clone(),
            imported: options.imported.clone().into(),
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
                    bail!("the connection to NATS was closed for good")
                }
            }
        });
        Ok(bus)
    }

    /// The state of the connection, to watch.
    #[must_use]
    pub fn link(&self) -> watch::Receiver<ConnectionState> {
        self.link.clone()
    }

    /// Whether the connection with this number still holds.
    ///
    /// What was delivered on one connection must not be answered on the next: a server that has lost the
    /// end of a stream meanwhile knows a message by its sequence alone, and would take the answer for
    /// that of another message.
    pub(crate) fn is_on(&self, epoch: u64) -> bool {
        *self.link.borrow() == ConnectionState { up: true, epoch }
    }

    /// Waits until the server can be reached. Returns the number of the connection.
    pub async fn connected(&self) -> u64 {
        let mut link = self.link.clone();
        let epoch = link.wait_for(|link| link.up).await.map(|link| link.epoch);
        match epoch {
            Ok(epoch) => epoch,
            // The callback is gone with the client: nothing will ever connect again.
            Err(_) => std::future::pending().await,
        }
    }

    /// Ends the connection after everything written has reached the server. Each step is bounded;
    /// what does not go out in time is sent again by others, that is what acks are for.
    pub async fn close(&self) {
        self.closed.expected.store(true, Ordering::Relaxed);
        if self.link.borrow().up && timeout(CLOSE_TIMEOUT, self.client.flush()).await.is_err() {
            warn!("NATS did not take the last messages in time");
        }
        if self.client.drain().await.is_err() {
            return;
        }
        // `drain` only queues the wish; the connection is done when it says so.
        let mut event = self.closed.event.clone();
        if timeout(CLOSE_TIMEOUT, event.wait_for(|closed| *closed)).await.is_err() {
            debug!("the connection to NATS did not close in time");
        }
    }
}

fn connect_options(options: &Options) -> anyhow::Result<ConnectOptions> {
    let mut connect = ConnectOptions::new()
        .name(options.client_id.as_str())
        .ping_interval(PING_INTERVAL)
        .connection_timeout(CONNECT_TIMEOUT)
        .request_timeout(Some(REQUEST_TIMEOUT))
        .client_capacity(CLIENT_CAPACITY)
        .retry_on_initial_connect()
        .max_reconnects(None)
        .reconnect_delay_callback(reconnect_delay);
    // The library passes over what a URL says of a user.
    let in_urls = user::in_urls(&servers(&options.servers)?);
    if let (None, Some((user, password))) = (&options.user, in_urls) {
        connect = connect.user_and_password(user, password);
    }
    if let Some(User { name, proof }) = &options.user {
        // Answers to a user come in where no other user can be given the right to listen.
        connect = connect.custom_inbox_prefix(format!("_INBOX.{name}"));
        connect = match proof {
            Proof::Password(password) => connect.user_and_password(name.clone(), password.clone()),
            Proof::Seed(seed) => connect.nkey(seed.expose().to_owned()),
        };
    }
    if let Some(file) = &options.certificate_authority {
        ensure!(file.is_file(), "NATS_CA: there is no file {}", file.display());
        connect = connect.add_root_certificates(file.clone()).require_tls(true);
    }
    Ok(connect)
}

/// Doubling from 50 ms to a second, less up to half, so that replicas do not come back in step.
fn reconnect_delay(attempts: usize) -> Duration {
    let doubling = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX).min(10);
    let delay = (Duration::from_millis(50) * 2_u32.pow(doubling)).min(MAX_RECONNECT_DELAY);
    delay.mul_f64(rand::random_range(0.5..=1.0))
}

fn note(event: &Event, link: &watch::Sender<ConnectionState>, closed: &watch::Sender<bool>) {
    match event {
        Event::Connected => {
            link.send_modify(|link| *link = ConnectionState { up: true, epoch: link.epoch + 1 });
            metrics::gauge!("bus_connected").set(1);
            info!("connected to NATS");
        }
        Event::Disconnected => {
            link.send_modify(|link| link.up = false);
            metrics::gauge!("bus_connected").set(0);
            warn!("disconnected from NATS, reconnecting");
        }
        Event::Closed => {
            link.send_modify(|link| link.up = false);
            metrics::gauge!("bus_connected").set(0);
            closed.send_replace(true);
        }
        Event::LameDuckMode => info!("the NATS server is about to stop"),
        Event::Draining => debug!("draining"),
        Event::SlowConsumer(subscription) => warn!(subscription, "too slow a consumer"),
        Event::ServerError(error) => warn!(%error, "NATS server"),
        Event::ClientError(error) => debug!(%error, "NATS client"),
    }
}
