//! Whatever an operator does to a group's consumer while its member runs, the group gets every
//! event.

use std::time::Duration;

use async_nats::jetstream::{
    consumer::{AckPolicy, Config, DeliverPolicy, ReplayPolicy},
    response::Response,
    stream,
};
use common::events::ticket::TICKETS;
use serde_json::{Value, json};
use testkit::until_within;
use time::OffsetDateTime;

use crate::member::{World, until};

const GROUP: &str = "first-service";
/// An edit is found within 5 s and repaired at once; the rest is a margin for a slow machine.
const MENDED: Duration = Duration::from_secs(10);

/// Starts a group whose member runs and has handled one event.
async fn group(world: World) -> World {
    world.publish_first().await;
    world.member::<0>().await;
    until("the first takes effect", || async { world.effects(0).await == ["first"] }).await;
    until("the first is acknowledged", || async {
        world.group(0).await.unwrap().ack_floor.stream_sequence == 1
    })
    .await;
    world
}

async fn ask(world: &World, subject: &str, asked: Value) -> Value {
    let answer: Response<Value> =
        world.jetstream.request(format!("{subject}.TICKETS.{GROUP}"), &asked).await.unwrap();
    match answer {
        Response::Ok(answer) => answer,
        Response::Err { error } => panic!("{subject}: {error}"),
    }
}

async fn write(world: &World, config: &Config, action: &str) {
    let asked = json!({ "stream_name": "TICKETS", "config": config, "action": action });
    ask(world, "CONSUMER.CREATE", asked).await;
}

/// Edits the consumer, like `nats consumer edit`.
async fn edit(world: &World, edit: impl FnOnce(&mut Config)) {
    let mut config = world.group(0).await.unwrap().config;
    edit(&mut config);
    write(world, &config, "update").await;
}

/// Deletes the consumer and creates another one under its name.
async fn replace(world: &World, edit: impl FnOnce(&mut Config)) {
    let mut config = world.group(0).await.unwrap().config;
    edit(&mut config);
    ask(world, "CONSUMER.DELETE", json!({})).await;
    write(world, &config, "create").await;
}

/// Publishes right after an edit, and waits until the event takes effect.
async fn goes_on(world: &World) {
    world.publish("while it was edited").await;
    until_within(MENDED, "the event published during the edit takes effect", || async {
        world.effects(0).await == ["first", "while it was edited"]
    })
    .await;
    assert!(world.dead_letters().await.is_empty());
}

/// Runs each of these tests with a member that creates its group itself, and with a provisioner
/// that does so for members whose account imports the stream.
macro_rules! in_one_account_and_in_two {
    ($($name:ident,)*) => {
        mod in_one_account {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::World::start().await).await;
            })*
        }
        mod in_two_accounts {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::World::start_in_two_accounts().await).await;
            })*
        }
    };
}

in_one_account_and_in_two! {
    a_live_edit_of_the_filter_costs_the_group_no_event,
    a_deleted_group_is_recreated_and_continues,
    a_group_recreated_for_new_events_only_gets_those_published_in_between,
    a_group_recreated_at_a_later_start_gets_the_events_it_would_have_skipped,
    a_paused_group_is_resumed,
    a_group_set_to_headers_only_still_gets_whole_events_and_no_dead_letters,
    a_group_set_to_need_no_acks_is_recreated,
    a_group_set_to_replay_at_the_original_speed_is_recreated,
    limits_on_a_members_requests_are_removed,
    timeouts_and_limits_of_a_group_are_repaired_while_its_member_runs,
}

async fn a_live_edit_of_the_filter_costs_the_group_no_event(world: World) {
    let world = group(world).await;
    edit(&world, |config| config.filter_subjects = vec!["ticket:updated".to_owned()]).await;
    goes_on(&world).await;
    // The subject of another release, which this one does not know, stays.
    let found = world.group(0).await.unwrap().config;
    assert_eq!(found.filter_subjects, ["ticket:created"]);
}

async fn a_deleted_group_is_recreated_and_continues(world: World) {
    let world = group(world).await;
    ask(&world, "CONSUMER.DELETE", json!({})).await;
    goes_on(&world).await;
}

async fn a_group_recreated_for_new_events_only_gets_those_published_in_between(world: World) {
    let world = group(world).await;
    let mut config = world.group(0).await.unwrap().config;
    ask(&world, "CONSUMER.DELETE", json!({})).await;
    world.publish("while it was edited").await;
    config.deliver_policy = DeliverPolicy::New;
    // Fails if the member was faster.
    let asked = json!({ "stream_name": "TICKETS", "config": config, "action": "create" });
    let subject = format!("CONSUMER.CREATE.TICKETS.{GROUP}");
    let _: Value = world.jetstream.request(subject, &asked).await.unwrap();
    until_within(MENDED, "it takes effect", || async { world.effects(0).await.len() == 2 }).await;
}

async fn a_group_recreated_at_a_later_start_gets_the_events_it_would_have_skipped(world: World) {
    let world = group(world).await;
    replace(&world, |config| {
        config.deliver_policy = DeliverPolicy::ByStartSequence { start_sequence: 1_000 };
    })
    .await;
    goes_on(&world).await;
}

async fn a_paused_group_is_resumed(world: World) {
    let world = group(world).await;
    let until = OffsetDateTime::now_utc() + Duration::from_secs(3_600);
    let until = until.format(&time::format_description::well_known::Rfc3339).unwrap();
    ask(&world, "CONSUMER.PAUSE", json!({ "pause_until": until })).await;
    goes_on(&world).await;
}

async fn a_group_set_to_headers_only_still_gets_whole_events_and_no_dead_letters(world: World) {
    let world = group(world).await;
    edit(&world, |config| config.headers_only = true).await;
    goes_on(&world).await;
}

async fn a_group_set_to_need_no_acks_is_recreated(world: World) {
    let world = group(world).await;
    replace(&world, |config| {
        config.ack_policy = AckPolicy::None;
        (config.ack_wait, config.max_ack_pending) = (Duration::ZERO, 0);
    })
    .await;
    goes_on(&world).await;
    until_within(MENDED, "the group is recreated", || async {
        let group = world.group(0).await;
        group.is_some_and(|group| group.config.ack_policy == AckPolicy::Explicit)
    })
    .await;
}

async fn a_group_set_to_replay_at_the_original_speed_is_recreated(world: World) {
    let world = group(world).await;
    replace(&world, |config| config.replay_policy = ReplayPolicy::Original).await;
    goes_on(&world).await;
    until_within(MENDED, "the group is recreated", || async {
        let group = world.group(0).await;
        group.is_some_and(|group| group.config.replay_policy == ReplayPolicy::Instant)
    })
    .await;
}

async fn limits_on_a_members_requests_are_removed(world: World) {
    let world = group(world).await;
    edit(&world, |config| {
        (config.max_batch, config.max_expires) = (1, Duration::from_millis(500));
    })
    .await;
    goes_on(&world).await;
    edit(&world, |config| config.inactive_threshold = Duration::from_secs(60)).await;
    replace(&world, |config| config.max_waiting = 1).await;
    until_within(MENDED, "the original settings are restored", || async {
        let Some(group) = world.group(0).await else { return false };
        let config = group.config;
        config.max_batch <= 0
            && config.max_expires.is_zero()
            && config.inactive_threshold.is_zero()
            && config.max_waiting >= 512
    })
    .await;
}

async fn timeouts_and_limits_of_a_group_are_repaired_while_its_member_runs(world: World) {
    let world = group(world).await;
    let right = world.group(0).await.unwrap().config;
    edit(&world, |config| {
        config.max_ack_pending = 1;
        config.max_deliver = 3;
        config.backoff = vec![Duration::from_secs(3_600); 2];
    })
    .await;
    goes_on(&world).await;
    until_within(MENDED, "the original settings are restored", || async {
        let Some(group) = world.group(0).await else { return false };
        let config = group.config;
        config.ack_wait == right.ack_wait
            && config.max_ack_pending == right.max_ack_pending
            && config.max_deliver == -1
            && config.backoff.is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_sealed_stream_delivers_its_events_and_stops_no_member() {
    let world = group(World::start().await).await;
    world.publish("while it was edited").await;
    let mut config =
        world.jetstream.get_stream(TICKETS.name).await.unwrap().cached_info().config.clone();
    config.sealed = true;
    world.jetstream.update_stream(stream::Config { ..config }).await.unwrap();
    edit(&world, |config| config.max_ack_pending = 5).await;
    until_within(MENDED, "the group is repaired nevertheless", || async {
        let group = world.group(0).await;
        group.is_some_and(|group| group.config.max_ack_pending > 5)
    })
    .await;
    until("the stream's events take effect", || async { world.effects(0).await.len() == 2 }).await;
    // An operator deletes it, and everything continues.
    world.jetstream.delete_stream(TICKETS.name).await.unwrap();
    until_within(MENDED, "the group exists again", || async { world.group(0).await.is_some() })
        .await;
    world.publish("anew").await;
    until_within(MENDED, "the group continues", || async { world.effects(0).await.len() == 3 })
        .await;
}
