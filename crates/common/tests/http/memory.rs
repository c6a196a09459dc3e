//! The memory that clients can make the server use.

use crate::{
    attacks::{MANY, crowd},
    client::posting,
    service::Service,
};

#[tokio::test]
async fn too_many_unread_answers_close_the_oldest_connections() {
    let service = Service::with_room(3 * MANY);
    let mut first = service.client().await;
    let large = "GET /large HTTP/1.1\r\nhost: a\r\n\r\n";
    first.send(large.repeat(4)).await;
    let unread = crowd(&service, &large.repeat(4)).await;
    first.until_gone_unread().await;
    drop(unread);
}

#[tokio::test]
async fn too_many_incomplete_heads_close_the_oldest_connections() {
    let head = format!("GET /things/1 HTTP/1.1\r\nhost: a\r\nx-a: {}", "a".repeat(16_000));
    the_oldest_makes_room(&head).await;
}

#[tokio::test]
async fn too_many_incomplete_bodies_close_the_oldest_connections() {
    let body = posting(&"a".repeat(16_000));
    the_oldest_makes_room(&body[..body.len() - 1]).await;
}

/// Checks that the oldest client is disconnected if all clients fit into the connections, but not into the
/// memory.
async fn the_oldest_makes_room(sends: &str) {
    let service = Service::with_room(3 * MANY);
    let mut first = service.client().await;
    first.send(sends).await;
    let others = [crowd(&service, sends).await, crowd(&service, sends).await];
    let told = String::from_utf8(first.until_closed().await).unwrap();
    assert!(told.starts_with("HTTP/1.1 503 "), "{told}");
    drop(others);
}
