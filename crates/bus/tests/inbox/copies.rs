//! Thousands of unreadable messages: the dead letters they become, and how long they delay other
//! events.

use std::time::Duration;

use bus::dead_letters::{self, Which};
use uuid::Uuid;

use crate::world::{World, until};

const GARBAGE: usize = 20_000;
/// The most commits allowed for all of them. On a quiet machine a good event then waits 1 to 2 s. Commits
/// are counted instead of time, which would measure the machine's load.
const COMMITS: i64 = 500;

/// Returns how much later a good event behind the garbage takes effect than one before it.
async fn delay_behind(world: &World, garbage: Vec<Vec<u8>>) -> Duration {
    world.publish(&[(Uuid::now_v7(), "before")]).await;
    world.publish_bytes(garbage).await;
    world.publish(&[(Uuid::now_v7(), "behind")]).await;
    world.member("member").await;
    until("both took effect", || async { world.effects().await.0 == 2 }).await;
    let delay = "select extract(epoch from max(at) - min(at))::float8 from effects";
    Duration::from_secs_f64(sqlx::query_scalar(delay).fetch_one(&world.pool).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_copies_of_one_bad_message_become_one_dead_letter() {
    let world = World::start().await;
    let delay = delay_behind(&world, vec![b"no event".to_vec(); GARBAGE]).await;
    println!("the good one waited {delay:?} behind copies");
    let mut connection = world.pool.acquire().await.unwrap();
    // The last batch of garbage is processed concurrently with that of the good one.
    until("all are counted", async || {
        let letters = dead_letters::list(&mut connection, None, 1).await.unwrap();
        letters.first().is_some_and(|letter| letter.copies >= 20_000)
    })
    .await;
    let letters = dead_letters::list(&mut connection, None, 10).await.unwrap();
    let [letter] = &letters[..] else { panic!("{} dead letters", letters.len()) };
    assert_eq!(letter.copies, 20_000);
    assert_eq!(letter.sequences, ["2-20001"]);
    assert!(letter.last_at > letter.dead_at);
    assert_eq!(dead_letters::discard(&mut connection, Which::One(letter.id)).await.unwrap(), 1);
    assert_eq!(world.number("select count(*) from bus.dead_letter_copies").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_different_bad_messages_become_dead_letters_in_batches() {
    let world = World::start().await;
    let garbage = (0..GARBAGE).map(|n| format!("{{no event {n}").into_bytes()).collect();
    let delay = delay_behind(&world, garbage).await;
    println!("the good one waited {delay:?} behind different messages");
    until("all are dead letters", || async {
        world.number("select count(*) from bus.dead_letters").await == 20_000
    })
    .await;
    let commits = world.number("select count(distinct xmin::text) from bus.dead_letters").await;
    assert!(commits <= COMMITS, "{commits} commits");
}

#[tokio::test(flavor = "multi_thread")]
async fn scattered_copies_keep_their_first_and_last_sequences() {
    let world = World::start().await;
    // Every other message is the same; the rest are all different.
    let bytes = |n: usize| {
        if n.is_multiple_of(2) { b"no event".to_vec() } else { format!("{n}").into_bytes() }
    };
    world.publish_bytes((0..600).map(bytes).collect()).await;
    world.member("one").await;
    world.member("two").await;
    until("all are dead letters", || async {
        world.number("select count(*) from bus.dead_letters").await == 301
            && world.number("select sum(copies)::bigint from bus.dead_letter_copies").await >= 300
    })
    .await;
    let mut connection = world.pool.acquire().await.unwrap();
    let letters = dead_letters::list(&mut connection, None, 1_000).await.unwrap();
    let copied: Vec<_> = letters.iter().filter(|letter| letter.copies > 1).collect();
    let [letter] = copied[..] else { panic!("{} messages have copies", copied.len()) };
    // A redelivered message, as on a starved machine, may be counted twice.
    assert!(letter.copies >= 300, "{}", letter.copies);
    assert_eq!((letter.sequences.len(), letter.sequences[0].as_str()), (100, "1"));
}
