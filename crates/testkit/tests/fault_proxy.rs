//! The fault proxy holds, cuts and restores connections as tests rely on it to.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::time::Duration;

use testkit::{Direction, FaultProxy, PATIENCE};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

#[tokio::test]
async fn a_link_holds_bytes_back_in_one_direction_and_delivers_them_on_release() {
    let (link, mut client, mut server) = linked().await;
    link.hold(Direction::ToServer).await;
    client.write_all(b"question").await.unwrap();
    server.write_all(b"news").await.unwrap();
    let mut news = [0; 4];
    timeout(PATIENCE, client.read_exact(&mut news)).await.unwrap().unwrap();
    let mut question = [0; 8];
    let held = timeout(Duration::from_millis(200), server.read_exact(&mut question)).await;
    assert!(held.is_err(), "a byte passed a held link");
    link.release(Direction::ToServer).await;
    timeout(PATIENCE, server.read_exact(&mut question)).await.unwrap().unwrap();
    assert_eq!(&question, b"question");
}

#[tokio::test]
async fn a_cut_link_ends_its_connections_and_refuses_new_ones_until_restored() {
    let (link, mut client, mut server) = linked().await;
    assert_eq!(link.connections(), 1);
    // Also while it is held: held bytes are lost.
    link.hold(Direction::ToServer).await;
    client.write_all(b"lost").await.unwrap();
    link.cut().await;
    let mut rest = Vec::new();
    timeout(PATIENCE, server.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert_eq!(rest, b"");
    assert_eq!(timeout(PATIENCE, client.read(&mut [0; 8])).await.unwrap().unwrap_or(0), 0);
    assert!(TcpStream::connect(("127.0.0.1", link.port())).await.is_err());
    link.mend().await.unwrap();
    assert!(TcpStream::connect(("127.0.0.1", link.port())).await.is_ok());
}

/// A link with one connection through it.
async fn linked() -> (FaultProxy, TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let link = FaultProxy::to(listener.local_addr().unwrap().port()).await.unwrap();
    let client = TcpStream::connect(("127.0.0.1", link.port())).await.unwrap();
    let (server, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    (link, client, server)
}
