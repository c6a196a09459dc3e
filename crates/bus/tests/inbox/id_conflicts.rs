//! Events that reuse another event's id are never mistaken for it, and never lost silently.

use bus::dead_letters::{self, DeadLetter, Which};
use uuid::Uuid;

use crate::world::{World, until};

/// Dead letters in the order of their messages. A member processes two batches at once, and may store them in
/// another order.
async fn letters(world: &World) -> Vec<DeadLetter> {
    let mut connection = world.pool.acquire().await.unwrap();
    let mut letters = dead_letters::list(&mut connection, None, 100).await.unwrap();
    letters.sort_by_key(|letter| letter.stream_sequence);
    letters
}

async fn names(world: &World) -> Vec<String> {
    sqlx::query_scalar("select name from effects order by name")
        .fetch_all(&world.pool)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_reuses_an_id_becomes_a_dead_letter_with_the_reason() {
    let world = World::start().await;
    let id = Uuid::now_v7();
    world.member("member").await;
    world.publish(&[(id, "first")]).await;
    until("it took effect", || async { world.effects().await.0 == 1 }).await;
    // The same again, then two others under its id, one of them twice.
    world.publish(&[(id, "first"), (id, "second"), (id, "third"), (id, "second")]).await;
    world.publish(&[(Uuid::now_v7(), "last")]).await;
    until("the last took effect", || async { world.effects().await.0 == 2 }).await;
    until("both are dead letters, and the copy is counted", || async {
        let dead = letters(&world).await;
        dead.len() == 2 && dead.iter().map(|letter| letter.copies).sum::<i64>() == 3
    })
    .await;
    assert_eq!(names(&world).await, ["first", "last"]);
    let mut dead = letters(&world).await;
    // The copy may have been stored first, with its own place in the stream.
    dead.sort_by(|one, other| one.payload.cmp(&other.payload));
    for (letter, (name, copies)) in dead.iter().zip([("second", 2), ("third", 1)]) {
        assert!(String::from_utf8_lossy(&letter.payload).contains(name), "kept byte for byte");
        assert_eq!(letter.copies, copies);
        let why = "another event with the same id but other bytes took effect at 2";
        assert!(letter.reason.starts_with(why), "{}", letter.reason);
        assert_ne!(letter.event_id, id, "the dead letter has the other event's id");
    }

    // A redrive does not change that.
    let mut connection = world.pool.acquire().await.unwrap();
    dead_letters::redrive(&mut connection, Which::All).await.unwrap();
    until("both were tried", || async {
        letters(&world).await.iter().all(|letter| {
            letter.redrive_at.is_none()
                && letter.attempts == 1
                && letter.reason.starts_with("another event with the same id")
        })
    })
    .await;
    assert_eq!(names(&world).await, ["first", "last"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_events_with_one_id_in_a_batch_the_first_takes_effect_even_among_bad_ones() {
    let world = World::start().await;
    let (id, other) = (Uuid::now_v7(), Uuid::now_v7());
    // The first is handled alone; those that arrive meanwhile form one batch.
    world.publish(&[(Uuid::now_v7(), "0")]).await;
    world.publish(&[(id, "a"), (id, "b"), (id, "a")]).await;
    world.member("member").await;
    until("the second is a dead letter", || async { letters(&world).await.len() == 1 }).await;
    assert_eq!(names(&world).await, ["0", "a"]);
    assert!(letters(&world).await[0].reason.contains("another event with the same id"));
    // Tried in pieces, because Postgres refuses one of them.
    world.publish(&[(other, "c"), (Uuid::now_v7(), ""), (other, "d")]).await;
    until("two more are dead letters", || async { letters(&world).await.len() == 3 }).await;
    assert_eq!(names(&world).await, ["0", "a", "c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_with_one_id_and_different_bytes_are_all_kept() {
    let world = World::start().await;
    let id = Uuid::now_v7();
    world.publish(&[(id, "")]).await;
    world.member("member").await;
    until("it is a dead letter", || async { letters(&world).await.len() == 1 }).await;
    // One with the same id that cannot be read, and one that fails like the first.
    let unreadable = format!(r#"{{"specversion":"1.0","id":"{id}","type":"parcel:sent"}}"#);
    world.publish_bytes(vec![unreadable.clone().into_bytes(), unreadable.into_bytes()]).await;
    let failing =
        bus::envelope::encode(id, time::OffsetDateTime::now_utc(), &crate::world::sent(""));
    world.publish_bytes(vec![failing.unwrap().into_bytes()]).await;
    until("all three are dead letters", || async {
        letters(&world).await.iter().map(|letter| letter.copies).sum::<i64>() == 4
    })
    .await;
    let kept = letters(&world).await;
    assert_eq!(kept.iter().map(|letter| letter.copies).collect::<Vec<_>>(), [1, 2, 1]);
    assert_eq!(kept[0].event_id, id);
    let payloads: std::collections::HashSet<_> =
        kept.iter().map(|letter| &letter.payload).collect();
    assert_eq!(payloads.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_claimed_by_the_previous_release_is_known_whatever_its_bytes() {
    let world = World::start().await;
    let id = Uuid::now_v7();
    let claim = "insert into bus.inbox (queue_group, event_id, client_id)
                 values ('parcel-service', $1, 'before')";
    sqlx::query(claim).bind(id).execute(&world.pool).await.unwrap();
    world.publish(&[(id, "again"), (Uuid::now_v7(), "new")]).await;
    world.member("member").await;
    until("the new one took effect", || async { world.effects().await.0 == 1 }).await;
    assert_eq!(names(&world).await, ["new"]);
    assert_eq!(letters(&world).await.len(), 0);
}
