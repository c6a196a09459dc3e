//! The HTTP server: it takes connections, bounds what each may cost, and ends without
//! cutting off a request and without waiting for a client.

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

use super::{connection, connections::Connections, phase::Deadlines};
use bus::Shutdown;

/// How often deadlines are looked at: by so much a client may be late.
const LOOK: Duration = Duration::from_millis(250);
/// How many connections may wait to be taken: as many as Linux allows. What finds no room tries again after
/// a second.
const BACKLOG: u32 = 4096;
/// What the kernel holds of a connection in each direction, in bytes; it uses up to twice as much. More
/// than a request, and most answers. By default it takes megabytes for a client that does not read.
const KERNEL_BUFFER: u32 = 32 * 1024;
/// How many files the process may have open if the system allows it: connections, and what else there is.
const OPEN_FILES: u64 = 65_536;
/// How soon to look again for room.
const SOON: Duration = Duration::from_millis(10);
/// The pause after a connection could not be taken, for want of files or memory.
const PAUSE: Duration = Duration::from_millis(50);
/// A connection that was taken just before the server stops listening still has this long to say
/// something.
const LAST_CALL: Duration = Duration::from_secs(1);

/// What a server allows.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// The most connections at a time.
    pub connections: usize,
    /// How long clients may take.
    pub deadlines: Deadlines,
    /// How long a server that is asked to stop goes on taking connections. Every answer meanwhile says
    /// that its connection is to be closed; what has said nothing all that time is closed then.
    pub drain: Duration,
    /// When, after it was asked to stop, a server gives up what is unfinished.
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

/// Opens a port, before anything else is opened: a taken port is the commonest mistake on a laptop, and
/// it should be the first thing to be said.
///
/// # Errors
/// When the address cannot be bound.
pub fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    allow_many_files();
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        // What it accepts has these from it.
        socket.set_recv_buffer_size(KERNEL_BUFFER)?;
        socket.set_send_buffer_size(KERNEL_BUFFER)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().with_context(|| format!("cannot listen on {address}"))
}

/// Many systems let a process open 1,024 files unless it asks for more.
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

/// Serves until the process is asked to stop, then ends within [`Bounds::stop_within`].
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
        // Without this it would be copied, with all that its handlers hold, for each request.
        router: router.with_state(()),
        connections: Connections::new(bounds.connections, bounds.deadlines),
        tasks: JoinSet::new(),
        look: interval(LOOK),
    };
    server.look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    server.take_until(&listener, shutdown.begun()).await;

    let end = Instant::now() + bounds.stop_within;
    server.connections.close_after_answers();
    server.take_until(&listener, sleep(bounds.drain.min(bounds.stop_within))).await;
    // Those that have connected, and of which nobody knows yet.
    while let Some(Ok((stream, _))) = listener.accept().now_or_never() {
        server.take(stream);
    }
    drop(listener);
    server.finish(bounds.drain.min(LAST_CALL), end).await;
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
    /// Takes connections until then.
    async fn take_until(&mut self, listener: &TcpListener, until: impl Future<Output = ()>) {
        tokio::pin!(until);
        loop {
            let room = self.connections.has_room();
            tokio::select! {
                () = &mut until => return,
                () = sleep(SOON), if !room => {}
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
        let (place, ended) = self.connections.admit();
        // An answer should not wait for the client's acknowledgement of a part of it.
        let _ = stream.set_nodelay(true);
        let (http, router) = (self.http.clone(), self.router.clone());
        self.tasks.spawn(connection::serve(stream, http, router, place, ended));
    }

    /// Waits for the connections there are, but not for those that say nothing, and not beyond `end`.
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

/// Whether it is the connection that failed, and not the listener.
fn of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
