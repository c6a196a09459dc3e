//! The HTTP server: accepts connections, bounds the cost of each, and shuts down without cutting
//! off a request or waiting for an idle client.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use axum::Router;
use futures::FutureExt;
use hyper::server::conn::http1::Builder;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
    time::{Instant, Interval, MissedTickBehavior, interval, sleep, sleep_until},
};
use tracing::warn;

use super::{connection, connections::Connections, phase::Deadlines, place::Place};
use bus::Shutdown;

/// How often deadlines are checked, and so the most that a client may exceed one.
const CHECK_DEADLINES_EVERY: Duration = Duration::from_millis(250);
/// How many connections may wait to be accepted: the maximum on Linux. A client that finds the
/// queue full retries after a second.
const BACKLOG: u32 = 4096;
/// The kernel's buffer per connection and direction, in bytes; the kernel uses up to twice as much.
/// More than a request and most answers. The default is megabytes for a client that does not read.
const KERNEL_BUFFER: u32 = 32 * 1024;
/// How many files the process may open, if the system allows it: the connections and everything
/// else.
const OPEN_FILES: u64 = 65_536;
/// How soon to check again for room.
const CHECK_ROOM_EVERY: Duration = Duration::from_millis(10);
/// The pause after a failed accept, for lack of files or memory.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a connection that was accepted just before the server stops listening has to send
/// something.
const LAST_ACCEPT_GRACE: Duration = Duration::from_secs(1);

/// The limits of a server.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// The most connections at once.
    pub connections: usize,
    /// The deadlines of clients.
    pub deadlines: Deadlines,
    /// How long a server that is asked to stop keeps accepting connections. Every answer meanwhile
    /// closes its connection; connections that were silent all that time are closed at the end.
    pub drain: Duration,
    /// How long after the request to stop a server abandons unfinished requests.
    pub stop_within: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: 256,
            deadlines: Deadlines::default(),
            drain: Duration::from_secs(1),
            stop_within: Duration::from_secs(18),
        }
    }
}

/// Opens a port, before anything else is opened: a port in use is the most common mistake on a
/// laptop, so it should be reported first.
///
/// # Errors
/// If the address cannot be bound.
pub fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    allow_many_files();
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        // Accepted connections inherit these.
        socket.set_recv_buffer_size(KERNEL_BUFFER)?;
        socket.set_send_buffer_size(KERNEL_BUFFER)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().with_context(|| format!("cannot listen on {address}"))
}

/// Raises the limit on open files: many systems allow a process only 1,024 unless it asks.
fn allow_many_files() {
    let allowed = getrlimit(Resource::Nofile);
    let wanted = allowed.maximum.map_or(OPEN_FILES, |maximum| maximum.min(OPEN_FILES));
    if allowed.current.is_some_and(|current| current < wanted) {
        let more = Rlimit { current: Some(wanted), maximum: allowed.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, more) {
            warn!(%error, files = wanted, "cannot raise the limit on open files");
        }
    }
}

/// Serves until the process is asked to stop, then shuts down within [`Bounds::stop_within`].
///
/// # Errors
/// Never; the type is what [`Shutdown::spawn`] takes.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    bounds: Bounds,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let mut server = Server {
        http: connection::protocol(),
        // Otherwise the router would be copied, with everything its handlers hold, for each
        // request.
        router: router.with_state(()),
        connections: Connections::new(bounds.connections, bounds.deadlines),
        tasks: JoinSet::new(),
        look: interval(CHECK_DEADLINES_EVERY),
    };
    server.look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    server.take_until(&listener, shutdown.begun()).await;

    let end = Instant::now() + bounds.stop_within;
    server.connections.close_after_answers();
    server.take_until(&listener, sleep(bounds.drain.min(bounds.stop_within))).await;
    // Connections that are established but not accepted yet.
    while let Some(Ok((stream, _))) = listener.accept().now_or_never() {
        server.take(stream);
    }
    drop(listener);
    server.finish(bounds.drain.min(LAST_ACCEPT_GRACE), end).await;
    Ok(())
}

struct Server {
    http: Builder,
    router: Router,
    connections: Arc<Connections>,
    tasks: JoinSet<()>,
    look: Interval,
}

impl Server {
    /// Accepts connections until `until` completes.
    async fn take_until(&mut self, listener: &TcpListener, until: impl Future<Output = ()>) {
        tokio::pin!(until);
        loop {
            let room = self.connections.has_room();
            tokio::select! {
                () = &mut until => return,
                () = sleep(CHECK_ROOM_EVERY), if !room => {}
                _ = self.look.tick() => self.connections.end_late(Instant::now()),
                Some(_) = self.tasks.join_next() => {}
                accepted = listener.accept(), if room => match accepted {
                    Ok((stream, _)) => self.take(stream),
                    Err(error) if of_one_connection(&error) => {}
                    Err(error) => {
                        warn!(%error, "cannot accept a connection");
                        self.connections.make_room();
                        sleep(PAUSE).await;
                    }
                },
            }
        }
    }

    fn take(&mut self, stream: TcpStream) {
        let (place, ended) = Place::take(&self.connections);
        // An answer should not wait for the client to acknowledge a part of it.
        let _ = stream.set_nodelay(true);
        let (http, router) = (self.http.clone(), self.router.clone());
        self.tasks.spawn(connection::serve(stream, http, router, place, ended));
    }

    /// Waits for the open connections, but not for silent ones, and not beyond `end`.
    async fn finish(&mut self, quiet: Duration, end: Instant) {
        loop {
            tokio::select! {
                joined = self.tasks.join_next() => if joined.is_none() { return },
                _ = self.look.tick() => {
                    self.connections.end_late(Instant::now());
                    self.connections.end_idle(quiet);
                }
                () = sleep_until(end) => break,
            }
        }
        warn!(
            connections = self.tasks.len(),
            "closed connections whose clients neither read nor write"
        );
        self.tasks.shutdown().await;
    }
}

/// Returns whether the connection failed, and not the listener.
fn of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
