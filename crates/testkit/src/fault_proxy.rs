//! A connection between a client and a server that can be cut, restored, held in either direction,
//! or silenced as if the server had vanished.

use std::{
    net::SocketAddr,
    sync::{Arc, PoisonError},
};

use anyhow::Context;
use embedded::ports;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Mutex, OwnedRwLockWriteGuard, RwLock},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Bytes in flight in one direction of one connection.
const BUFFER: usize = 16 * 1024;

/// A direction of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
}

/// A TCP proxy to a server. Dropping it ends it and its connections.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    server: SocketAddr,
    /// The gates of new connections.
    gates: Arc<std::sync::Mutex<Arc<Gates>>>,
    /// Ends the listener and the connections. Replaced when the proxy is restored.
    up: Mutex<Option<CancellationToken>>,
    held: Mutex<[Option<OwnedRwLockWriteGuard<()>>; 2]>,
    /// Both directions of connections that are no longer answered.
    silent: Mutex<Vec<[OwnedRwLockWriteGuard<()>; 2]>>,
    connections: TaskTracker,
}

/// A forwarder holds its direction's gate for reading while it passes bytes on. Holding it for
/// writing blocks all forwarders.
#[derive(Debug, Default)]
struct Gates {
    to_server: Arc<RwLock<()>>,
    to_client: Arc<RwLock<()>>,
}

impl FaultProxy {
    /// Creates a proxy to a server on this machine.
    ///
    /// # Errors
    /// If there is no free port to listen on.
    pub async fn to(port: u16) -> anyhow::Result<Self> {
        let link = Self {
            address: ([127, 0, 0, 1], ports::free()?).into(),
            server: ([127, 0, 0, 1], port).into(),
            gates: Arc::default(),
            up: Mutex::new(None),
            held: Mutex::new([None, None]),
            silent: Mutex::default(),
            connections: TaskTracker::new(),
        };
        link.mend().await?;
        Ok(link)
    }

    /// Returns the port to connect to instead of the server's.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Returns the number of open connections.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Breaks every connection and refuses new ones, until restored. Bytes that were held are lost.
    pub async fn cut(&self) {
        if let Some(up) = self.up.lock().await.take() {
            up.cancel();
        }
        self.connections.close();
        self.connections.wait().await;
        self.connections.reopen();
    }

    /// Accepts connections again.
    ///
    /// # Errors
    /// If the port was taken meanwhile.
    pub async fn mend(&self) -> anyhow::Result<()> {
        let mut up = self.up.lock().await;
        if up.is_some() {
            return Ok(());
        }
        let listener = TcpListener::bind(self.address).await.context("cannot restore the proxy")?;
        let token = CancellationToken::new();
        *up = Some(token.clone());
        let (server, gates, connections) =
            (self.server, self.gates.clone(), self.connections.clone());
        tokio::spawn(async move {
            loop {
                let accepted = tokio::select! {
                    () = token.cancelled() => return,
                    accepted = listener.accept() => accepted,
                };
                let Ok((client, _)) = accepted else { continue };
                let (token, gates) = (token.clone(), current(&gates));
                connections.spawn(async move {
                    tokio::select! {
                        () = token.cancelled() => {}
                        () = forward(client, server, &gates) => {}
                    }
                });
            }
        });
        Ok(())
    }

    /// Holds one direction: once this returns, no byte passes until released. The connections stay
    /// open, and bytes sent meanwhile arrive later.
    pub async fn hold(&self, direction: Direction) {
        let gate = current(&self.gates).of(direction).clone();
        let mut held = self.held.lock().await;
        let place = &mut held[direction as usize];
        if place.is_none() {
            *place = Some(gate.write_owned().await);
        }
    }

    /// The server's machine vanishes, and another one takes its address: existing connections stay
    /// open and silent until the proxy is cut or dropped, and new ones reach the server.
    pub async fn vanish(&self) {
        let old = current(&self.gates);
        *self.gates.lock().unwrap_or_else(PoisonError::into_inner) = Arc::default();
        let both =
            [old.to_server.clone().write_owned().await, old.to_client.clone().write_owned().await];
        self.silent.lock().await.push(both);
    }

    /// Releases a held direction.
    pub async fn release(&self, direction: Direction) {
        self.held.lock().await[direction as usize] = None;
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        if let Some(up) = self.up.get_mut().take() {
            up.cancel();
        }
    }
}

fn current(gates: &std::sync::Mutex<Arc<Gates>>) -> Arc<Gates> {
    gates.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

impl Gates {
    fn of(&self, direction: Direction) -> &Arc<RwLock<()>> {
        match direction {
            Direction::ToServer => &self.to_server,
            Direction::ToClient => &self.to_client,
        }
    }
}

async fn forward(client: TcpStream, server: SocketAddr, gates: &Gates) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::join!(
        pass(from_client, to_server, gates.of(Direction::ToServer)),
        pass(from_server, to_client, gates.of(Direction::ToClient)),
    );
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, gate: &RwLock<()>) {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await;
        // The end of a connection is held too: the other side must not notice it yet.
        let _open = gate.read().await;
        match read {
            Ok(length @ 1..) if to.write_all(&buffer[..length]).await.is_ok() => {}
            _ => {
                let _ = to.shutdown().await;
                return;
            }
        }
    }
}
