//! Events that fail: retried, dead-lettered, redriven; and the events next to them, which are
//! unaffected.

use std::env;

use crate::member::{World, join, until};
use common::bus::{
    Options,
    dead_letters::{self, Which},
};
use embedded::process::{Child, Command};
use sqlx::PgPool;

#[tokio::test]
async fn a_poison_event_does_not_hold_back_its_neighbours() {
    let world = World::start().await;
    // Published before any member runs, so that they arrive as one batch.
    world.publish_first().await;
    for title in ["a", "reject", "b", "panic", "c"] {
        world.publish(title).await;
    }
    world.member::<0>().await;
    until("both are dead letters", || async { world.dead_letters().await.len() == 2 }).await;
    assert_eq!(world.effects(0).await, ["a", "b", "c", "first"]);
    let dead = world.dead_letters().await;
    let reject = dead.iter().find(|dead| dead.reason.contains("it was rejected")).unwrap();
    assert_eq!(reject.attempts, 1, "a rejected event is not retried");
    assert_eq!(reject.headers["x-origin"][0], "te\u{fffd}st", "Postgres cannot store NUL");
    assert!(String::from_utf8_lossy(&reject.payload).contains(r#""title":"reject""#));
    let panic = dead.iter().find(|dead| dead.reason.contains("panic")).unwrap();
    assert_eq!(panic.attempts, Options::MAX_ATTEMPTS);
}

#[tokio::test]
async fn an_undecodable_event_becomes_a_dead_letter_with_the_reason() {
    let world = World::start().await;
    world.member::<0>().await;
    let encoded = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut envelope = serde_json::json!({
            "specversion": "1.0", "id": uuid::Uuid::now_v7(), "source": "/tickets",
            "type": "ticket:created", "time": "2026-01-01T00:00:00Z",
            "dataschema": "urn:ticketing:event:ticket:created:1", "data": {"title": 7},
        });
        change(&mut envelope);
        envelope.to_string()
    };
    let ticket = |created_at: &str, characters: usize| {
        serde_json::json!({
            "id": uuid::Uuid::now_v7(), "title": "x".repeat(characters), "price": 1, "version": 1,
            "created_at": created_at, "updated_at": "2026-01-01T00:00:00Z",
        })
    };
    let cases = [
        ("\u{0}\u{1}".to_owned(), "not a CloudEvent"),
        ("{}".to_owned(), "missing field"),
        (encoded(&|e| e["specversion"] = "2.0".into()), "specversion is \"2.0\""),
        (encoded(&|e| e["type"] = "order:created".into()), "order:created"),
        (encoded(&|e| e["dataschema"] = "x".into()), "dataschema"),
        (
            encoded(&|e| e["dataschema"] = "urn:ticketing:event:ticket:created:0".into()),
            "schema version 0, this listener knows 1",
        ),
        (encoded(&|_| {}), "ticket:created: title: invalid type"),
        (encoded(&|e| e["id"] = "x".into()), "UUID"),
        (encoded(&|e| e["time"] = "0000-01-01T00:00:00Z".into()), "must be in the years 1 to 9999"),
        (encoded(&|e| e["data"] = ticket("2026-01-01T00:00:00Z", 990_000)), "bytes, the limit is"),
        (encoded(&|e| e["data"] = ticket("2026-01-01T00:00:00Z", 201)), "ticket:created: title: "),
        (
            encoded(&|e| e["data"] = ticket("0000-01-01T00:00:00Z", 1)),
            "ticket:created: created_at: ",
        ),
        (
            encoded(&|e| {
                e["source"] = "/somebody".into();
                e["data"] = ticket("2026-01-01T00:00:00Z", 1);
            }),
            "its source is \"/somebody\", expected \"/tickets\"",
        ),
        (encoded(&|e| e["type"] = "x".repeat(9_000).into()), "its type \"xxx"),
    ];
    for (bytes, _) in &cases {
        world.publish_bytes(bytes.as_bytes()).await;
    }
    world.publish("fine").await;
    until("they are dead letters", || async { world.dead_letters().await.len() == cases.len() })
        .await;
    for (letter, (bytes, reason)) in world.dead_letters().await.iter().zip(&cases) {
        assert!(letter.reason.contains(reason), "{reason:?} is not in {:?}", letter.reason);
        assert_eq!(letter.payload, bytes.as_bytes(), "the payload must be kept byte for byte");
        assert_eq!(letter.attempts, 0);
        assert!(letter.reason.chars().count() <= 1_001, "the reason is too long");
    }
    until("the neighbour took effect", || async { world.effects(0).await == ["fine"] }).await;
}

#[tokio::test]
async fn an_event_that_may_succeed_later_is_retried_and_takes_effect_once() {
    let world = World::start().await;
    world.member::<0>().await;
    world.publish("retry").await;
    until("it was tried twice", || async { world.tries().await >= 2 }).await;
    world.mend("retry").await;
    until("it took effect", || async { world.effects(0).await == ["retry"] }).await;
    assert_eq!(world.dead_letters().await.len(), 0);
    let attempts: i64 = sqlx::query_scalar("select count(*) from bus.attempts")
        .fetch_one(&world.pool)
        .await
        .unwrap();
    assert_eq!(attempts, 0, "a handled event has no attempts left in the table");
}

#[tokio::test]
async fn a_redriven_event_goes_only_to_the_group_in_which_it_failed() {
    let world = World::start().await;
    world.member::<0>().await;
    let event = world.publish("reject").await;
    until("it is a dead letter of the first group", || async {
        world.dead_letters().await.len() == 1
    })
    .await;
    world.mend("reject").await;
    world.member::<1>().await;
    until("it took effect in the second", || async { world.effects(1).await == ["reject"] }).await;

    let dead = &world.dead_letters().await[0];
    assert_eq!((dead.event_id, dead.queue_group.as_str()), (event, "first-service"));
    let mut connection = world.pool.acquire().await.unwrap();
    let redriven = dead_letters::redrive(&mut connection, Which::One(dead.id)).await.unwrap();
    assert_eq!(redriven, 1);
    until("it took effect in the first", || async { world.effects(0).await == ["reject"] }).await;
    until("it is no longer a dead letter", || async { world.dead_letters().await.is_empty() })
        .await;
    assert_eq!(
        world.effects(1).await,
        ["reject"],
        "it must take effect exactly once in the second group"
    );
}

#[tokio::test]
async fn an_event_whose_handler_kills_the_process_becomes_a_dead_letter() {
    let world = World::start().await;
    world.publish_first().await;
    for title in ["a", "abort", "b"] {
        world.publish(title).await;
    }
    let mut member = process(&world, 0);
    let mut deaths = 0;
    until("it is a dead letter", || {
        if member.exited().is_some() {
            deaths += 1;
            assert!(deaths <= 10, "the process was killed again and again");
            member = process(&world, deaths);
        }
        async { world.dead_letters().await.len() == 1 }
    })
    .await;
    until("its neighbours took effect", || async { world.effects(0).await == ["a", "b", "first"] })
        .await;
    assert!(member.exited().is_none(), "the last process has died");

    // Redriven without a fix, it kills the process once more and stays a dead letter.
    let mut connection = world.pool.acquire().await.unwrap();
    dead_letters::redrive(&mut connection, Which::All).await.unwrap();
    member.wait().await;
    let dead = &world.dead_letters().await[0];
    assert!(dead.reason.contains("the process ended"), "{}", dead.reason);
    assert!(dead.redrive_at.is_none());
}

/// Runs a member as its own process.
fn process(world: &World, number: usize) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "dead_letters::child_process_that_is_a_member"])
        .env("MEMBER_OF_NATS", world.nats.url())
        .env("MEMBER_OF_DATABASE", world.postgres.url("listener"))
        .env("MEMBER_NAME", format!("member-{number}"))
        .quiet()
        .spawn()
        .unwrap()
}

/// Not a test: the body of `process`. Does nothing in an ordinary test run.
#[tokio::test]
async fn child_process_that_is_a_member() {
    let (Ok(nats), Ok(database)) = (env::var("MEMBER_OF_NATS"), env::var("MEMBER_OF_DATABASE"))
    else {
        return;
    };
    let pool = PgPool::connect(&database).await.unwrap();
    join::<0>(&nats, pool, &env::var("MEMBER_NAME").unwrap()).await;
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn an_outage_does_not_count_against_the_events_it_hits() {
    let world = World::start().await;
    world.publish_first().await;
    world.publish("a").await;
    // Two copies: the pending ones are redelivered after "a" and tried together.
    world.publish_copies(2, "cut").await;
    world.member::<0>().await;
    // While they are pending for the first time, nothing is counted.
    until("they are redelivered", || async { world.deliveries(0).await > 4 }).await;
    let tries = world.tries().await;
    until("it was tried more often than MAX_ATTEMPTS", || async {
        world.tries().await > tries + i64::from(Options::MAX_ATTEMPTS) + 1
    })
    .await;
    assert!(!world.effects(0).await.contains(&"cut".to_owned()));
    world.mend("cut").await;
    until("all took effect", || async { world.effects(0).await == ["a", "cut", "first"] }).await;
    assert_eq!(world.dead_letters().await.len(), 0);
}

#[tokio::test]
async fn an_outage_does_not_use_up_a_redrive() {
    let world = World::start().await;
    world.member::<0>().await;
    world.publish("reject, then cut").await;
    until("it is a dead letter", || async { world.dead_letters().await.len() == 1 }).await;
    world.mend("reject, then cut").await;
    let mut connection = world.pool.acquire().await.unwrap();
    dead_letters::redrive(&mut connection, Which::All).await.unwrap();
    let before = world.tries().await;
    until("it was tried twice during the outage", || async { world.tries().await >= before + 2 })
        .await;
    world.mend("cut").await;
    until("it took effect", || async { world.effects(0).await.len() == 1 }).await;
    assert_eq!(world.dead_letters().await.len(), 0);
}

#[tokio::test]
async fn while_postgres_is_down_pulling_pauses_and_no_attempt_is_counted() {
    let mut world = World::start().await;
    world.member::<0>().await;
    world.publish("before").await;
    until("it took effect", || async { world.effects(0).await == ["before"] }).await;
    world.postgres.kill().await;
    for _ in 0..20 {
        world.publish("meanwhile").await;
    }
    world.until_nobody_pulls(0).await;
    world.postgres.restart().await.unwrap();
    until("all took effect", || async { world.effects(0).await.len() == 21 }).await;
    assert_eq!(world.dead_letters().await.len(), 0);
    let counted: i64 =
        sqlx::query_scalar("select coalesce(max(attempts), 0)::bigint from bus.attempts")
            .fetch_one(&world.pool)
            .await
            .unwrap();
    assert!(counted <= 1, "the outage was counted as {counted} tries");
    let deliveries = world.deliveries(0).await;
    assert!(deliveries <= 1 + 3 * 20, "{deliveries} deliveries for 21 events");
}
