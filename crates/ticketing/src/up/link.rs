//! With `--cuttable`: the links between each process of the services and NATS and Postgres, so that one can be cut
//! while both ends live. A cut link is silent, like a partitioned network: no bytes pass, no connection is refused, and
//! pending bytes arrive once the cut is over.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::Context;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::sleep,
};
use url::Url;

use super::names::{NATS, POSTGRES};

/// How many connections one link carries. A process opens a few dozen; more wait in the listener's queue.
const MAX_CONNECTIONS: usize = 256;
/// The pause after a failed accept, for example when too many files are open.
const AFTER_A_FAILURE: Duration = Duration::from_millis(200);

/// Cuts a process off from a server for a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cut {
    /// The process's client id.
    pub(super) process: String,
    /// `nats` or `postgres`.
    pub(super) server: String,
    pub(super) seconds: u64,
}

/// All links. Dropping it ends them and their connections.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// Whether a link is cut, by process and server.
    cut: BTreeMap<(String, &'static str), watch::Sender<bool>>,
    forwarders: JoinSet<()>,
}

impl Links {
    /// Adds a link from a process to the server at this URL, `nats` or `postgres`. Returns the URL of the link.
    pub(super) async fn add(
        &mut self,
        process: &str,
        server: &'static str,
        url: &str,
    ) -> anyhow::Result<String> {
        let mut url = Url::parse(url).context("the URL of a server")?;
        let port = url.port().context("the URL of a server has no port")?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("a port for a link")?;
        let own = listener.local_addr()?.port();
        url.set_port(Some(own)).ok().context("the URL of a server takes no port")?;
        let (cut, is_cut) = watch::channel(false);
        self.cut.insert((process.to_owned(), server), cut);
        self.forwarders.spawn(forward_all(listener, ([127, 0, 0, 1], port).into(), is_cut));
        Ok(url.into())
    }

    /// Cuts a link for a time. Returns a future that ends the cut; `None` if there is no such link, or it is
    /// already cut.
    pub(super) fn cut(&self, wanted: &Cut) -> Option<impl Future<Output = ()> + use<>> {
        let server = [NATS, POSTGRES].into_iter().find(|server| *server == wanted.server)?;
        let cut = self.cut.get(&(wanted.process.clone(), server))?;
        if cut.send_replace(true) {
            return None;
        }
        let (cut, time) = (cut.clone(), Duration::from_secs(wanted.seconds));
        Some(async move {
            sleep(time).await;
            cut.send_replace(false);
        })
    }

    /// Ends every cut, so that the processes can stop.
    pub(super) fn mend_all(&self) {
        for cut in self.cut.values() {
            cut.send_replace(false);
        }
    }
}

async fn forward_all(listener: TcpListener, server: SocketAddr, is_cut: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= MAX_CONNECTIONS {
            connections.join_next().await;
        }
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    connections.spawn(forward(client, server, is_cut.clone()));
                }
                Err(_) => sleep(AFTER_A_FAILURE).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Forwards one connection until either end closes it.
async fn forward(mut client: TcpStream, server: SocketAddr, mut is_cut: watch::Receiver<bool>) {
    // A server cannot be reached through a link that is cut.
    if is_cut.wait_for(|is_cut| !is_cut).await.is_err() {
        return;
    }
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let copying = copy_bidirectional(&mut client, &mut server);
    tokio::pin!(copying);
    loop {
        tokio::select! {
            biased;
            found = is_cut.wait_for(|is_cut| *is_cut) => {
                // Nothing is copied meanwhile, and neither end learns that the other has gone.
                if found.is_err() {
                    return;
                }
            }
            _ = &mut copying => return,
        }
        if is_cut.wait_for(|is_cut| !is_cut).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::timeout,
    };

    use super::*;

    /// Longer than a byte takes to pass through a link.
    const A_WHILE: Duration = Duration::from_millis(300);
    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test]
    #[allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]
    async fn bytes_sent_over_a_cut_link_arrive_after_the_cut_and_not_before() {
        let server = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("nats://user:secret@127.0.0.1:{}", server.local_addr().unwrap().port());
        let mut links = Links::default();
        let through: Url = links.add("orders-1", NATS, &url).await.unwrap().parse().unwrap();
        assert_eq!((through.username(), through.password()), ("user", Some("secret")));
        let connect = async || TcpStream::connect(("127.0.0.1", through.port().unwrap())).await;
        let mut old = connect().await.unwrap();
        let (mut old_served, _) = server.accept().await.unwrap();
        old.write_all(b"a").await.unwrap();
        assert_eq!(timeout(PATIENCE, old_served.read_u8()).await.unwrap().unwrap(), b'a');

        let wanted = Cut { process: "orders-1".into(), server: "nats".into(), seconds: 2 };
        let nobody = Cut { process: "orders-2".into(), ..wanted.clone() };
        assert!(links.cut(&nobody).is_none(), "there is no such process");
        let over = links.cut(&wanted).unwrap();
        assert!(links.cut(&wanted).is_none(), "it is already cut");
        // In both directions, and over a new connection.
        old.write_all(b"b").await.unwrap();
        old_served.write_all(b"c").await.unwrap();
        let mut new = connect().await.unwrap();
        new.write_all(b"d").await.unwrap();
        let nothing = timeout(A_WHILE, async {
            tokio::select! {
                _ = old_served.read_u8() => {}
                _ = old.read_u8() => {}
                _ = server.accept() => {}
            }
        });
        assert!(nothing.await.is_err(), "something passed");
        over.await;
        let passed = timeout(PATIENCE, async {
            let (mut new_served, _) = server.accept().await.unwrap();
            let new = new_served.read_u8().await.unwrap();
            (old_served.read_u8().await.unwrap(), old.read_u8().await.unwrap(), new)
        });
        assert_eq!(passed.await.unwrap(), (b'b', b'c', b'd'));
        // The server is gone: so is the connection.
        drop((old_served, server));
        assert_eq!(timeout(PATIENCE, old.read(&mut [0])).await.unwrap().unwrap(), 0);
    }
}
