//! Whether a NATS server is there, told from a new connection to it. The client alone cannot tell a server that
//! is gone from one that is frozen: to both it reconnects in vain.

use std::time::Duration;

use async_nats::ServerAddr;
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

use crate::{connection::Bus, options::servers};

/// What comes of a new connection to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Nobody listens there.
    Refused,
    /// It is accepted, or not even refused, and nothing is said: the server is frozen or cut off.
    Silent,
    /// The server greets.
    Greets,
}

impl Bus {
    /// Opens a connection of its own to each server of the options, and returns the best that comes of one
    /// within `limit`.
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
