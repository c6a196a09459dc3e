//! Thousands of bad events, with good ones among them.

use uuid::Uuid;

use crate::world::{World, until};

/// Events of which every n-th has another name.
fn mixed(count: usize, every: usize, bad: &'static str) -> Vec<(Uuid, &'static str)> {
    (0..count)
        .map(|n| (Uuid::now_v7(), if n % every == every / 2 { bad } else { "good" }))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_refused_events_hold_back_none_of_ten_thousand_good_ones() {
    let world = World::start().await;
    world.publish(&mixed(11_000, 11, "refused")).await;
    world.member("member").await;
    until("they are dead letters", || async {
        world.number("select count(*) from bus.dead_letters").await == 1_000
    })
    .await;
    assert_eq!(world.effects().await, (10_000, 10_000));
    // Each transaction is one commit to wait for. Processed one by one, each event would need its own.
    // There are more than batches, because a slow batch is committed in parts.
    let commits = world.number("select count(distinct transaction) from effects").await;
    println!("{commits} commits for ten thousand good events");
    assert!(commits < 500, "{commits} commits for ten thousand good events");
    assert_eq!(world.number("select min(attempts)::bigint from bus.dead_letters").await, 5);
    assert_eq!(world.number("select count(*) from bus.attempts").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_unprocessable_events_become_dead_letters_in_batches() {
    let world = World::start().await;
    let undecodable: Vec<Vec<u8>> = (0..1_000).map(|n| format!("{{{n}").into_bytes()).collect();
    world.publish_bytes(undecodable).await;
    world.publish(&mixed(2_000, 2, "")).await;
    world.publish(&mixed(200, 10, "panic")).await;
    world.publish(&mixed(200, 10, "late")).await;
    world.member("member").await;
    until("they are dead letters", || async {
        world.number("select count(*) from bus.dead_letters").await == 2_040
    })
    .await;
    until("the good ones took effect", || async { world.effects().await == (1_360, 1_360) }).await;
    let commits = world.number("select count(distinct xmin::text) from bus.dead_letters").await;
    assert!(commits < 400, "{commits} transactions for 2,040 dead letters");
    let tried_once = "select count(*) from bus.dead_letters where attempts = 1";
    assert_eq!(world.number(tried_once).await, 1_000, "an invalid value is tried once");
}
