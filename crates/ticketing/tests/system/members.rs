//! Members of a queue group join, leave and freeze.

use std::{collections::BTreeMap, time::Duration};

use common::bus::Options;
use embedded::process::Signal;
use sqlx::{Connection, PgConnection};
use tokio::time::timeout;

use crate::harness::{Load, PATIENCE, System, until};

#[tokio::test]
async fn three_replicas_share_a_thousand_tickets_and_process_each_once() {
    let system = System::start().await;
    let tickets = system.tickets().await;
    let _orders = tokio::join!(
        system.orders("orders-1"),
        system.orders("orders-2"),
        system.orders("orders-3"),
    );
    let load = Load::begin(&system, &tickets, 8);
    until("a thousand tickets", || async { load.created() >= 1000 }).await;
    let created = load.end().await;
    system.reached_once(&created).await;

    let known = system.known().await;
    assert_eq!(known.len(), created.len(), "orders has these tickets and no others");
    let mut shares = BTreeMap::<&str, usize>::new();
    for member in known.values() {
        *shares.entry(member).or_default() += 1;
    }
    assert_eq!(shares.len(), 3, "all three took part: {shares:?}");
    let members: Vec<(String, i64)> = sqlx::query_as(
        "select client_id, count(*) from bus.inbox where queue_group = 'orders-service'
         group by client_id",
    )
    .fetch_all(&system.orders_db)
    .await
    .unwrap();
    let taken: i64 = members.iter().map(|(_, events)| events).sum();
    assert_eq!(usize::try_from(taken).unwrap(), created.len());
}

#[tokio::test]
async fn a_frozen_replicas_events_go_to_others_and_its_late_ack_does_no_harm() {
    let system = System::start().await;
    let tickets = system.tickets().await;
    let first = system.orders("orders-1").await;
    // Nothing commits while this lock is held, so the replica freezes with events in hand.
    let mut blocker = PgConnection::connect(&system.postgres.url("orders")).await.unwrap();
    let mut lock = blocker.begin().await.unwrap();
    sqlx::query("lock table tickets in share mode").execute(&mut *lock).await.unwrap();
    let load = Load::begin(&system, &tickets, 2);
    load.more(50).await;
    until("the replica has events in its hands", || async {
        system.group().await.num_ack_pending > 0
    })
    .await;
    first.child.pause();
    lock.rollback().await.unwrap();

    let _second = system.orders("orders-2").await;
    let created = load.end().await;
    system.reached_once(&created).await;
    first.child.resume();
    until("the thawed replica is back", || async {
        let answer = system.http.get(format!("{}/readyz", first.url)).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    })
    .await;
    let load = Load::begin(&system, &tickets, 2);
    load.more(100).await;
    system.reached_once(&load.end().await).await;
    system.reached_once(&created).await;
    system.group_is_quiet().await;
}

#[tokio::test]
async fn a_replica_stopped_under_load_exits_0_and_no_event_waits_for_the_ack_wait() {
    let system = System::start().await;
    let tickets = system.tickets().await;
    let mut first = system.orders("orders-1").await;
    let _others = tokio::join!(system.orders("orders-2"), system.orders("orders-3"));
    let load = Load::begin(&system, &tickets, 8);
    until("the replica takes part", || async {
        system.metric(&first, "bus_acked_total").await > 50.0
    })
    .await;
    let status = timeout(Duration::from_secs(10), first.child.stop(Signal::TERM, PATIENCE)).await;
    assert_eq!(status.expect("it takes too long to stop").code(), Some(0));
    load.more(200).await;
    let created = load.end().await;
    system.reached_once(&created).await;
    system.group_is_quiet().await;

    let slowest: f64 = sqlx::query_scalar(
        "select max(extract(epoch from processed_at - (state->>'createdAt')::timestamptz))::float8 from tickets",
    )
    .fetch_one(&system.orders_db)
    .await
    .unwrap();
    assert!(slowest < Options::ACK_WAIT.as_secs_f64(), "an event waited for {slowest} s");
}
