//! A connection balancer such as kube-proxy: it hands each new connection to a server that it
//! knows, and delays bytes in both directions.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::sleep,
};

/// The latency in each direction, which lets a close and a request cross.
const WAY: Duration = Duration::from_millis(3);

#[derive(Clone)]
pub(crate) struct Balancer {
    pub(crate) address: SocketAddr,
    known: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Balancer {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let known: Arc<Mutex<Vec<SocketAddr>>> = Arc::default();
        let servers = known.clone();
        tokio::spawn(async move {
            for turn in 0.. {
                let (client, _) = listener.accept().await.unwrap();
                let to = {
                    let servers = servers.lock().unwrap();
                    servers[turn % servers.len()]
                };
                tokio::spawn(async move {
                    // The client notices a server that refuses.
                    let Ok(server) = TcpStream::connect(to).await else { return };
                    let (client_reads, client_writes) = client.into_split();
                    let (server_reads, server_writes) = server.into_split();
                    tokio::join!(
                        carry(client_reads, server_writes),
                        carry(server_reads, client_writes)
                    );
                });
            }
        });
        Self { address, known }
    }

    pub(crate) fn add(&self, server: SocketAddr) {
        self.known.lock().unwrap().push(server);
    }

    pub(crate) fn remove(&self, server: SocketAddr) {
        self.known.lock().unwrap().retain(|known| *known != server);
    }
}

/// Copies bytes one way, then the end of the stream.
async fn carry(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin) {
    let mut bytes = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        sleep(WAY).await;
        if to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
    sleep(WAY).await;
    let _ = to.shutdown().await;
}
