//! A server is killed or loses its disk under load. No 201 is lost, and events flow again.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::harness::{Load, System, until};

/// How soon after a server is back a new ticket must arrive.
const RESUME: Duration = Duration::from_secs(10);

/// Posts until a ticket is answered 201 and reaches orders, and checks how long that took.
async fn flow_resumes(system: &System, tickets: &crate::harness::Service, since: Instant) {
    let posted = async {
        loop {
            let body = serde_json::json!({ "title": "after the outage", "price": 1 });
            let answer =
                system.http.post(format!("{}/api/tickets", tickets.url)).json(&body).send().await;
            if let Ok(answer) = answer
                && answer.status() == reqwest::StatusCode::CREATED
            {
                let ticket: serde_json::Value = answer.json().await.unwrap();
                return ticket["id"].as_str().unwrap().parse().unwrap();
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
    .await;
    until("the new ticket arrives", || async { system.known().await.contains_key(&posted) }).await;
    let took = since.elapsed();
    assert!(took < RESUME, "the flow resumed only after {took:?}");
}

#[tokio::test]
async fn nats_killed_under_load_loses_nothing_and_the_flow_resumes() {
    let mut system = System::start().await;
    let tickets = system.tickets().await;
    let _orders = [system.orders("orders-1").await, system.orders("orders-2").await];
    let load = Load::begin(&system, &tickets, 4);
    load.more(100).await;
    system.nats.kill().await;
    load.more(100).await; // POST works with NATS down
    system.nats.restart().await.unwrap();
    flow_resumes(&system, &tickets, Instant::now()).await;
    load.more(100).await;
    system.reached_once(&load.end().await).await;
    system.group_is_quiet().await;
}

#[tokio::test]
async fn the_metrics_show_an_outbox_that_waits_for_nats() {
    let mut system = System::start().await;
    let tickets = system.tickets().await;
    system.nats.kill().await;
    system.post(&tickets, "waits").await;
    until("the age of the event shows", || async {
        system.metric(&tickets, "bus_outbox_depth").await >= 1.0
            && system.metric(&tickets, "bus_outbox_oldest_seconds").await > 0.0
    })
    .await;
    system.nats.restart().await.unwrap();
    until("the outbox is empty", || async {
        system.metric(&tickets, "bus_outbox_depth").await == 0.0
    })
    .await;
}

#[tokio::test]
async fn while_postgres_does_not_answer_gauges_read_from_it_are_unknown() {
    let system = System::start().await;
    let tickets = system.tickets().await;
    let unknown = async || {
        [
            system.metric(&tickets, "bus_outbox_depth").await.is_nan(),
            system.metric(&tickets, "bus_dead_letters").await.is_nan(),
        ]
    };
    until("they are known", || async { unknown().await == [false, false] }).await;
    system.postgres.pause();
    until("they are unknown", || async { unknown().await == [true, true] }).await;
    system.postgres.resume();
    until("they are known again", || async { unknown().await == [false, false] }).await;
}

#[tokio::test]
async fn postgres_killed_under_load_loses_nothing_and_the_flow_resumes() {
    let mut system = System::start().await;
    let tickets = system.tickets().await;
    let orders = [system.orders("orders-1").await, system.orders("orders-2").await];
    let load = Load::begin(&system, &tickets, 4);
    load.more(100).await;
    system.postgres.kill().await;
    for member in &orders {
        until("the members pause", || async {
            let answer = system.http.get(format!("{}/readyz", member.url)).send().await.unwrap();
            answer.status() == reqwest::StatusCode::SERVICE_UNAVAILABLE
        })
        .await;
    }
    system.postgres.restart().await.unwrap();
    flow_resumes(&system, &tickets, Instant::now()).await;
    load.more(100).await;
    system.reached_once(&load.end().await).await;
    system.group_is_quiet().await;
    system.no_dead_letters().await;
}

#[tokio::test]
async fn a_stream_wiped_before_anyone_read_it_is_refilled_from_postgres() {
    let mut system = System::start().await;
    let tickets = system.tickets().await;
    let load = Load::begin(&system, &tickets, 4);
    load.more(200).await;
    let created = load.end().await;
    until("everything is published", || async { system.unpublished().await == 0 }).await;
    assert!(system.stream_messages().await >= 200);
    system.nats.wipe_and_restart().await.unwrap();

    let _orders = system.orders("orders-1").await;
    system.reached_once(&created).await;
}

#[tokio::test]
async fn a_stream_wiped_under_load_loses_nothing_and_repeats_nothing() {
    let mut system = System::start().await;
    let tickets = system.tickets().await;
    let _orders = [system.orders("orders-1").await, system.orders("orders-2").await];
    let load = Load::begin(&system, &tickets, 4);
    load.more(100).await;
    system.nats.wipe_and_restart().await.unwrap();
    flow_resumes(&system, &tickets, Instant::now()).await;
    load.more(100).await;
    let created = load.end().await;
    system.reached_once(&created).await;
    // The stream again holds what was published before it was wiped.
    until("the stream is refilled", || async {
        system.unpublished().await == 0 && system.stream_messages().await >= created.len() as u64
    })
    .await;
    system.group_is_quiet().await;
    system.reached_once(&created).await;
}
