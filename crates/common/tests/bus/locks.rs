//! Temporary database failures do not count against the events they hit.

use std::time::Duration;

use common::bus::{BoxError, BusError, Failure, Options};
use sqlx::AssertSqlSafe;
use tokio::time::Instant;

use crate::member::{World, until};

async fn counted(world: &World) -> i64 {
    sqlx::query_scalar("select coalesce(sum(attempts), 0)::bigint from bus.attempts")
        .fetch_one(&world.pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_locked_table_makes_no_dead_letter() {
    let world = World::start().await;
    world.publish_first().await;
    world.publish("a").await;
    world.publish("b").await;
    let mut lock = world.pool.begin().await.unwrap();
    sqlx::query("lock table effects in access exclusive mode").execute(&mut *lock).await.unwrap();
    world.member::<0>().await;
    let tries = u64::try_from(Options::MAX_ATTEMPTS).unwrap() + 1;
    until("each was tried more often than MAX_ATTEMPTS", || async {
        world.deliveries(0).await >= 3 * tries
    })
    .await;
    assert_eq!(world.dead_letters().await.len(), 0);
    lock.rollback().await.unwrap();
    until("all took effect", || async { world.effects(0).await == ["a", "b", "first"] }).await;
    assert_eq!(world.dead_letters().await.len(), 0);
    assert_eq!(counted(&world).await, 0);
}

#[tokio::test]
async fn a_locked_row_makes_no_dead_letter_and_delays_no_other_event() {
    const SOON: Duration = Duration::from_secs(5);
    let world = World::start().await;
    let unique = "create unique index on effects (event_id)";
    sqlx::query(unique).execute(&world.pool).await.unwrap();
    world.publish_first().await;
    world.publish("a").await;
    let locked = world.publish("locked").await;
    world.publish("b").await;
    // Writers of this row wait for this transaction.
    let mut lock = world.pool.begin().await.unwrap();
    sqlx::query("insert into effects values ('another', $1, 'locked')")
        .bind(locked)
        .execute(&mut *lock)
        .await
        .unwrap();
    let begun = Instant::now();
    world.member::<0>().await;
    until("its neighbours took effect", || async { world.effects(0).await == ["a", "b", "first"] })
        .await;
    assert!(begun.elapsed() < SOON, "its neighbours waited {:?}", begun.elapsed());

    let tries = world.tries().await;
    until("it was tried more often than MAX_ATTEMPTS", || async {
        world.tries().await > tries + i64::from(Options::MAX_ATTEMPTS)
    })
    .await;
    let begun = Instant::now();
    world.publish("c").await;
    until("a later one took effect", || async { world.effects(0).await.contains(&"c".to_owned()) })
        .await;
    assert!(begun.elapsed() < SOON, "a later one waited {:?}", begun.elapsed());
    assert_eq!(world.dead_letters().await.len(), 0);
    lock.rollback().await.unwrap();
    until("it took effect", || async { world.effects(0).await.contains(&"locked".to_owned()) })
        .await;
    assert_eq!(world.dead_letters().await.len(), 0);
    assert_eq!(counted(&world).await, 0);
}

#[tokio::test]
async fn database_errors_are_classified_by_their_code() {
    let world = World::start().await;
    let judged = async |code: &str| {
        let raise = format!("do $$ begin raise exception using errcode = '{code}'; end $$");
        let error = sqlx::raw_sql(AssertSqlSafe(raise)).execute(&world.pool).await.unwrap_err();
        Failure::from(error)
    };
    for busy in ["55P03", "57014", "40001", "40P01", "25P04", "53200", "53400", "58030"] {
        assert!(matches!(judged(busy).await, Failure::Busy(_)), "{busy}");
    }
    for away in ["57P01", "57P02", "57P03", "57P05", "25P03", "25006", "53100", "53300", "08006"] {
        assert!(matches!(judged(away).await, Failure::Away(_)), "{away}");
    }
    for its_own in ["23505", "23503", "42P01", "XX000", "P0001", "54000"] {
        assert!(matches!(judged(its_own).await, Failure::Retry(_)), "{its_own}");
    }
    assert!(matches!(judged("22003").await, Failure::Reject(_)));
    // Also if the listener has added context.
    let raised = async |code: &str| {
        let raise = format!("do $$ begin raise exception using errcode = '{code}'; end $$");
        sqlx::raw_sql(AssertSqlSafe(raise)).execute(&world.pool).await.unwrap_err()
    };
    let wrapped = async |code: &str| {
        let error = anyhow::Error::from(raised(code).await).context("writing the effect");
        Failure::from(BoxError::from(error))
    };
    assert!(matches!(wrapped("40P01").await, Failure::Busy(_)));
    assert!(matches!(wrapped("57P01").await, Failure::Away(_)));
    assert!(matches!(wrapped("22003").await, Failure::Reject(_)));
    assert!(matches!(wrapped("23505").await, Failure::Retry(_)));
    let of_bus = BoxError::from(BusError::Database(raised("57P01").await));
    assert!(matches!(Failure::from(of_bus), Failure::Away(_)));
}
