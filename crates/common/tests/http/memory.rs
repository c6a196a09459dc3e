//! What clients can have the server hold.

use std::time::Duration;

use futures::future::join_all;
use tokio::time::sleep;

use crate::{
    attacks::{MANY, crowd},
    client::posting,
    service::Service,
};

#[tokio::test]
async fn more_unread_answers_than_the_server_keeps_cost_the_oldest_their_connection() {
    let service = Service::with_room(MANY);
    let mut first = service.client().await;
    let large = "GET /large HTTP/1.1\r\nhost: a\r\n\r\n";
    first.send(large.repeat(4)).await;
    let unread = crowd(&service, &large.repeat(4)).await;
    first.until_gone_unread().await;
    drop(unread);
}

#[tokio::test]
async fn more_half_heads_than_the_server_keeps_cost_the_oldest_their_connection() {
    let head = format!("GET /things/1 HTTP/1.1\r\nhost: a\r\nx-a: {}", "a".repeat(16_000));
    the_oldest_makes_room(&head).await;
}

#[tokio::test]
async fn more_half_bodies_than_the_server_keeps_cost_the_oldest_their_connection() {
    let body = posting(&"a".repeat(16_000));
    the_oldest_makes_room(&body[..body.len() - 1]).await;
}

/// Among as many who send this as there is room for, but no memory.
async fn the_oldest_makes_room(sends: &str) {
    let service = Service::with_room(3 * MANY);
    let mut first = service.client().await;
    first.send(sends).await;
    let others = [crowd(&service, sends).await, crowd(&service, sends).await];
    let told = String::from_utf8(first.until_closed().await).unwrap();
    assert!(told.starts_with("HTTP/1.1 503 "), "{told}");
    drop(others);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_body_that_comes_byte_by_byte_costs_no_more_than_one_that_comes_at_once() {
    const CLIENTS: usize = 80;
    const BYTES: usize = 1_000;
    let service = Service::start();
    let drip = async || {
        let mut client = service.client().await;
        let body = format!(r#"{{"name":"{}"}}"#, "a".repeat(BYTES));
        client.send(posting(&body).trim_end_matches(&body)).await;
        for byte in body.bytes() {
            // A machine that is too busy lets its time pass.
            if client.try_send([byte]).await.is_err() {
                return;
            }
            // As on a slow link, each is read before the next one comes.
            sleep(Duration::from_millis(1)).await;
        }
    };
    join_all((0..CLIENTS).map(|_| drip())).await;
    // It would be up to 640 MB if each byte kept the 8 KiB that it was read into.
    assert!(most_memory() < 200_000_000, "{} bytes", most_memory());
}

/// The most that this process ever had resident, in bytes.
#[cfg(target_os = "linux")]
fn most_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
