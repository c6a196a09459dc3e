//! Whether a NATS server answers, found with a new connection to it. The client alone cannot tell a server that
//! is gone from one that is frozen: it fails to reconnect to either.

use std::time::Duration;

use async_nats::ServerAddr;
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

use crate::{connection::Bus, options::servers};

/// The result of a new connection to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Nothing listens there.
    Refused,
    /// The server accepts or ignores it, and nothing arrives: the server is frozen or cut off.
    Silent,
    /// The server sends its greeting.
    Greets,
}

impl Bus {
    /// Opens a new connection to each server of the options, and returns the best result within `limit`.
    pub async fn reach(&self, limit: Duration) -> Reach {
        let servers = servers(&self.options.servers).unwrap_or_default();
        let reached = servers.iter().map(|server| reach(server, limit));
        let reached: Vec<Reach> = reached.collect::<FuturesUnordered<_>>().collect().await;
        reached.into_iter().max().unwrap_or(Reach::Refused)
    }
}

async fn reach(server: &ServerAddr, limit: Duration) -> Reach {
    let greeted = async {
        let mut connection = TcpStream::connect((server.host(), server.port())).await?;
        // A server speaks first, also where TLS follows.
        connection.read_u8().await
    };
    match timeout(limit, greeted).await {
        Ok(Ok(_)) => Reach::Greets,
        Ok(Err(_)) => Reach::Refused,
        Err(_) => Reach::Silent,
    }
}
