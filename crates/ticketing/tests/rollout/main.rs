//! A rollout from the previous release to this one: both run side by side on one database and one
//! stream, under load. `.ci/rollout` builds the previous release and runs this test.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]
#![allow(dead_code, unused_imports, reason = "the other tests of the system need the rest")]

#[path = "../system/harness/mod.rs"]
mod harness;
#[path = "../system/identities.rs"]
mod identities;

use std::{env, path::PathBuf, time::Duration};

use embedded::process::Signal;
use harness::{Load, Service, System};
use serde_json::{Value, json};
use uuid::Uuid;

/// How long a service may take to stop: its grace period and a margin.
const STOPPING: Duration = Duration::from_secs(30);
/// Tickets created in each stage of the rollout.
const STAGE: usize = 200;
/// Concurrent clients per replica of tickets.
const SELLERS: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_from_the_previous_release_loses_nothing_and_repeats_nothing() {
    let before = env::var_os("PREVIOUS_RELEASE")
        .map(PathBuf::from)
        .expect("PREVIOUS_RELEASE must be the path of the previous release; run .ci/rollout");
    let mut system = System::start().await;
    let now = std::mem::replace(&mut system.program, before);
    let mut old_tickets = system.tickets().await;
    let (mut old_1, mut old_2) = (system.orders("orders-1").await, system.orders("orders-2").await);
    let old_load = Load::begin(&system, &old_tickets, SELLERS);
    old_load.more(STAGE).await;
    let ticket = system.post(&old_tickets, "Concert").await;
    harness::until("orders knows the ticket", || async {
        system.known().await.contains_key(&ticket)
    })
    .await;
    let order = reserve(&system, &old_1, ticket).await;

    // As a Deployment does: a new pod joins, then an old one leaves.
    system.program = now;
    let new_tickets = system.service("tickets", "tickets-2", system.nats.client_port()).await;
    let new_load = Load::begin(&system, &new_tickets, SELLERS);
    new_load.more(STAGE).await;
    let new_3 = system.orders("orders-3").await;
    old_load.more(STAGE).await;
    stop(&mut old_1).await;
    let _new_4 = system.orders("orders-4").await;
    new_load.more(STAGE).await;
    stop(&mut old_2).await;
    let mut created = old_load.end().await;
    stop(&mut old_tickets).await;
    new_load.more(STAGE).await;
    created.extend(new_load.end().await);

    // This release finishes what the previous one began.
    let paid = format!("{}/api/orders/{order}/payment", new_3.url);
    let paid = system.http.post(paid).json(&json!({ "token": "tok_visa" })).send().await.unwrap();
    assert_eq!(paid.status(), 200);
    system.reached_once(&created).await;
    system.everything_is_quiet().await;
    system.no_dead_letters().await;
    let sold = format!("{}/api/tickets/{ticket}", new_tickets.url);
    let sold: Value = system.http.get(sold).send().await.unwrap().json().await.unwrap();
    assert_eq!(sold["hold"]["status"], "sold", "{sold}");
}

async fn reserve(system: &System, orders: &Service, ticket: Uuid) -> Uuid {
    let post = system.http.post(format!("{}/api/orders", orders.url));
    let answer = post.json(&json!({ "ticketId": ticket })).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    answer.json::<Value>().await.unwrap()["id"].as_str().unwrap().parse().unwrap()
}

async fn stop(service: &mut Service) {
    let status = service.child.stop(Signal::TERM, STOPPING).await;
    assert!(status.success(), "{status}");
}
