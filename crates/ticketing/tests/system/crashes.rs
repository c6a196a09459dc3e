//! A process dies between two steps of an event's path. The event may be repeated but not lost, and
//! takes effect once.

use std::collections::HashSet;

use sqlx::{Connection, PgConnection};
use testkit::{Direction, FaultProxy};

use crate::harness::{System, until};

#[tokio::test]
async fn an_event_of_a_replica_killed_between_commit_and_ack_is_redelivered_and_takes_effect_once()
{
    let system = System::start().await;
    let link = FaultProxy::to(system.nats.client_port()).await.unwrap();
    let tickets = system.tickets().await;
    let mut first = system.orders_through("orders-1", link.port()).await;
    // From here on, the replica receives from the server, but its acks do not arrive.
    link.hold(Direction::ToServer).await;
    let ticket = system.post(&tickets, "committed, never acknowledged").await;
    until("the effect is committed", || async { system.known().await.contains_key(&ticket) }).await;
    first.child.kill().await;
    link.cut().await; // The held ack is lost.
    assert_eq!(system.group().await.num_ack_pending, 1, "the ack must not have arrived");

    let second = system.orders("orders-2").await;
    system.group_is_quiet().await;
    assert_eq!(system.metric(&second, "bus_duplicates_total").await, 1.0, "it was redelivered");
    assert_eq!(system.known().await[&ticket], "orders-1");
    system.each_effect_happened_once().await;
}

#[tokio::test]
async fn an_event_of_a_replica_killed_before_its_commit_is_redelivered_to_another() {
    let system = System::start().await;
    let tickets = system.tickets().await;
    let mut first = system.orders("orders-1").await;
    let mut blocker = PgConnection::connect(&system.postgres.url("orders")).await.unwrap();
    let mut lock = blocker.begin().await.unwrap();
    sqlx::query("lock table tickets in share mode").execute(&mut *lock).await.unwrap();
    let ticket = system.post(&tickets, "begun, never committed").await;
    until("the replica writes", || async {
        let waiting: i64 = sqlx::query_scalar("select count(*) from pg_locks where not granted")
            .fetch_one(&system.orders_db)
            .await
            .unwrap();
        waiting > 0
    })
    .await;
    first.child.kill().await;
    lock.rollback().await.unwrap();

    let _second = system.orders("orders-2").await;
    system.reached_once(&HashSet::from([ticket])).await;
    assert_eq!(system.known().await[&ticket], "orders-2");
}

#[tokio::test]
async fn tickets_killed_between_commit_and_publish_publishes_after_its_restart() {
    let system = System::start().await;
    let link = FaultProxy::to(system.nats.client_port()).await.unwrap();
    let mut tickets = system.tickets_through(link.port()).await;
    let _orders = system.orders("orders-1").await;
    link.cut().await;
    // NATS is down, and the POST is still answered 201.
    let ticket = system.post(&tickets, "committed, never published").await;
    tickets.child.kill().await;
    assert_eq!(system.unpublished().await, 1);

    link.mend().await.unwrap();
    let _tickets = system.tickets_through(link.port()).await;
    system.reached_once(&HashSet::from([ticket])).await;
}

#[tokio::test]
async fn an_event_of_tickets_killed_between_puback_and_mark_is_published_again_and_takes_effect_once()
 {
    let system = System::start().await;
    let link = FaultProxy::to(system.nats.client_port()).await.unwrap();
    let mut tickets = system.tickets_through(link.port()).await;
    let _orders = system.orders("orders-1").await;
    // From here on, the relay's messages arrive, but it receives no confirmation.
    link.hold(Direction::ToClient).await;
    let ticket = system.post(&tickets, "published, never marked").await;
    until("the stream has it", || async { system.stream_messages().await == 1 }).await;
    tickets.child.kill().await;
    assert_eq!(system.unpublished().await, 1, "it must not be marked");

    let _tickets = system.tickets().await;
    until("it is marked", || async { system.unpublished().await == 0 }).await;
    assert_eq!(system.stream_messages().await, 1, "the second publish was a duplicate");
    system.group_is_quiet().await;
    system.reached_once(&HashSet::from([ticket])).await;
}
