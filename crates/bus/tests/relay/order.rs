//! Every committed event is published, whatever commits late and whichever process dies.

use std::time::Duration;

use sqlx::{Connection, PgConnection, PgPool};
use tokio::time::Instant;

use crate::world::{PARCELS, World, put, until};

#[tokio::test]
async fn an_event_that_commits_late_is_published_and_delays_no_other() {
    let world = World::start().await;
    let _relay = world.relay("a");
    let mut late = world.pool.begin().await.unwrap();
    put(&mut late, [1]).await;
    // Another database of the cluster, where a transaction writes and stays open.
    let elsewhere = world.postgres.create_database("elsewhere").await.unwrap();
    let mut elsewhere = PgConnection::connect(&elsewhere).await.unwrap();
    sqlx::raw_sql("begin; create table open (id int)").execute(&mut elsewhere).await.unwrap();
    world.send([2]).await;
    world.until_stored([2]).await;
    world.send([3]).await;
    world.until_stored([3]).await;
    late.commit().await.unwrap();
    world.until_stored([1, 2, 3]).await;
    world.until_quiet().await;
    let stored = world.stored().await;
    assert_eq!(stored.into_values().collect::<Vec<_>>(), [1, 1, 1]);
}

#[tokio::test]
async fn ten_thousand_events_of_one_transaction_are_published_in_order_once_each() {
    let world = World::start().await;
    world.send(0..10_000).await;
    let mut rolled_back = world.pool.begin().await.unwrap();
    put(&mut rolled_back, [-1]).await;
    rolled_back.rollback().await.unwrap();
    let _relay = world.relay("a");
    world.until_stored(0..10_000).await;
    world.until_quiet().await;
    let stored = world.stored().await;
    assert_eq!(stored.len(), 10_000);
    assert!(stored.values().all(|times| *times == 1), "some are stored more than once");
    // In batches: the server was asked once per page, not once per event.
    let stream = world.stream().await;
    let message = stream.get_raw_message(600).await.unwrap();
    assert!(message.headers.get("Nats-Batch-Id").is_some(), "not in an atomic batch");
    let sequence: i64 =
        sqlx::query_scalar("select last_sequence from bus.progress where stream = $1")
            .bind(PARCELS.name)
            .fetch_one(&world.pool)
            .await
            .unwrap();
    assert_eq!(sequence, 10_000);
    let ranges: i64 =
        sqlx::query_scalar("select count(*) from bus.ranges").fetch_one(&world.pool).await.unwrap();
    assert!(ranges <= 2, "{ranges} ranges for one step");
}

#[tokio::test]
async fn another_process_takes_over_within_seconds_of_a_relays_death() {
    let world = World::start().await;
    let first = world.relay("a");
    world.send([1]).await;
    world.until_stored([1]).await;
    let _second = world.relay("b");
    drop(first);
    let killed = Instant::now();
    world.send([2]).await;
    world.until_stored([2]).await;
    assert!(killed.elapsed() < Duration::from_secs(10), "{:?}", killed.elapsed());
}

#[tokio::test]
async fn two_relays_and_many_writers_lose_nothing_while_both_are_killed_in_turn() {
    let world = World::start().await;
    let mut relays = [world.relay("a"), world.relay("b")];
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let pool: PgPool = world.pool.clone();
            tokio::spawn(async move {
                for round in 0..100 {
                    let mut tx = pool.begin().await.unwrap();
                    let first = (writer * 100 + round) * 10;
                    put(&mut tx, first..first + 5).await;
                    tokio::task::yield_now().await;
                    put(&mut tx, first + 5..first + 10).await;
                    tx.commit().await.unwrap();
                }
            })
        })
        .collect();
    for round in 0..6 {
        let name = ["a", "b"][round % 2];
        world.until_stored((0..10).map(|at| at + 100 * i64::try_from(round).unwrap())).await;
        relays[round % 2] = world.relay(name);
    }
    for writer in writers {
        writer.await.unwrap();
    }
    world.until_stored(0..4_000).await;
    world.until_quiet().await;
    let stored = world.stored().await;
    // Events in flight when a relay was killed were republished, and the server recognized them.
    assert!(stored.values().all(|times| *times == 1), "some are stored more than once");
}

#[tokio::test]
async fn a_commit_in_another_process_does_not_wait_for_the_active_relays_next_poll() {
    let world = World::start().await;
    let at_work = world.relay("a");
    world.send([0]).await;
    at_work.wake.wake();
    world.until_stored([0]).await;
    let other = world.relay("b");
    // Once it waits for its turn too.
    until("both ask for the lock", || async {
        sqlx::query_scalar::<_, i64>(
            "select count(*) from pg_stat_activity where query like 'select pg_try_advisory_lock%'",
        )
        .fetch_one(&world.pool)
        .await
        .unwrap()
            >= 1
    })
    .await;
    let mut soon = 0;
    for number in 1..=20 {
        world.send([number]).await;
        let sent = Instant::now();
        other.wake.wake();
        world.until_stored([number]).await;
        soon += usize::from(sent.elapsed() < Duration::from_millis(400));
    }
    // With only a poll every second, few would be this fast, and never several in a row.
    assert!(soon >= 15, "{soon} of 20 within 0.4 s");
}
