//! Whatever an operator does to a group's consumer while its member runs, the group gets every event.

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
/// Found within 5 s and mended at once; the rest is for a slow machine.
const MENDED: Duration = Duration::from_secs(10);

/// A group whose member runs and has had one event.
async fn group(world: World) -> World {
    world.publish_first().await;
    world.member::<0>().await;
    until("the first takes effect", || async { world.effects(0).await == ["first"] }).await;
    until("it is acknowledged", || async {
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

/// Edits the consumer, as somebody does who runs `nats consumer edit`.
async fn edit(world: &World, edit: impl FnOnce(&mut Config)) {
    let mut config = world.group(0).await.unwrap().config;
    edit(&mut config);
    write(world, &config, "update").await;
}

/// Deletes the consumer and makes another of its name.
async fn replace(world: &World, edit: impl FnOnce(&mut Config)) {
    let mut config = world.group(0).await.unwrap().config;
    edit(&mut config);
    ask(world, "CONSUMER.DELETE", json!({})).await;
    write(world, &config, "create").await;
}

/// Publishes right after an edit, and waits until that takes effect.
async fn goes_on(world: &World) {
    world.publish("while it was edited").await;
    until_within(MENDED, "what was published during the edit takes effect", || async {
        world.effects(0).await == ["first", "while it was edited"]
    })
    .await;
    assert!(world.dead_letters().await.is_empty());
}

/// Each of these, where a member makes its group itself, and where a provisioner does so for members whose
/// account imports the stream.
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
    a_filter_that_is_edited_live_costs_the_group_no_event,
    a_group_that_is_deleted_is_made_again_and_goes_on,
    a_group_that_is_made_again_to_take_only_new_events_gets_those_in_between,
    a_group_that_is_made_again_further_on_gets_what_it_was_to_pass_over,
    a_paused_group_is_resumed,
    a_group_set_to_headers_only_gets_its_events_whole_and_none_is_a_dead_letter,
    a_group_whose_events_were_to_need_no_ack_is_made_again,
    a_group_that_was_to_replay_as_slowly_as_it_was_published_is_made_again,
    limits_on_what_a_member_may_ask_for_are_lifted,
    clocks_and_counts_of_a_group_are_set_right_while_its_member_runs,
}

async fn a_filter_that_is_edited_live_costs_the_group_no_event(world: World) {
    let world = group(world).await;
    edit(&world, |config| config.filter_subjects = vec!["ticket:updated".to_owned()]).await;
    goes_on(&world).await;
    // Another release's subject, which this one does not know, stays.
    let found = world.group(0).await.unwrap().config;
    assert_eq!(found.filter_subjects, ["ticket:created"]);
}

async fn a_group_that_is_deleted_is_made_again_and_goes_on(world: World) {
    let world = group(world).await;
    ask(&world, "CONSUMER.DELETE", json!({})).await;
    goes_on(&world).await;
}

async fn a_group_that_is_made_again_to_take_only_new_events_gets_those_in_between(world: World) {
    let world = group(world).await;
    let mut config = world.group(0).await.unwrap().config;
    ask(&world, "CONSUMER.DELETE", json!({})).await;
    world.publish("while it was edited").await;
    config.deliver_policy = DeliverPolicy::New;
    // Unless the member was faster.
    let asked = json!({ "stream_name": "TICKETS", "config": config, "action": "create" });
    let subject = format!("CONSUMER.CREATE.TICKETS.{GROUP}");
    let _: Value = world.jetstream.request(subject, &asked).await.unwrap();
    until_within(MENDED, "it takes effect", || async { world.effects(0).await.len() == 2 }).await;
}

async fn a_group_that_is_made_again_further_on_gets_what_it_was_to_pass_over(world: World) {
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

async fn a_group_set_to_headers_only_gets_its_events_whole_and_none_is_a_dead_letter(world: World) {
    let world = group(world).await;
    edit(&world, |config| config.headers_only = true).await;
    goes_on(&world).await;
}

async fn a_group_whose_events_were_to_need_no_ack_is_made_again(world: World) {
    let world = group(world).await;
    replace(&world, |config| {
        config.ack_policy = AckPolicy::None;
        (config.ack_wait, config.max_ack_pending) = (Duration::ZERO, 0);
    })
    .await;
    goes_on(&world).await;
    until_within(MENDED, "it is made again", || async {
        let group = world.group(0).await;
        group.is_some_and(|group| group.config.ack_policy == AckPolicy::Explicit)
    })
    .await;
}

async fn a_group_that_was_to_replay_as_slowly_as_it_was_published_is_made_again(world: World) {
    let world = group(world).await;
    replace(&world, |config| config.replay_policy = ReplayPolicy::Original).await;
    goes_on(&world).await;
    until_within(MENDED, "it is made again", || async {
        let group = world.group(0).await;
        group.is_some_and(|group| group.config.replay_policy == ReplayPolicy::Instant)
    })
    .await;
}

async fn limits_on_what_a_member_may_ask_for_are_lifted(world: World) {
    let world = group(world).await;
    edit(&world, |config| {
        (config.max_batch, config.max_expires) = (1, Duration::from_millis(500));
    })
    .await;
    goes_on(&world).await;
    edit(&world, |config| config.inactive_threshold = Duration::from_secs(60)).await;
    replace(&world, |config| config.max_waiting = 1).await;
    until_within(MENDED, "all is as it was", || async {
        let Some(group) = world.group(0).await else { return false };
        let config = group.config;
        config.max_batch <= 0
            && config.max_expires.is_zero()
            && config.inactive_threshold.is_zero()
            && config.max_waiting >= 512
    })
    .await;
}

async fn clocks_and_counts_of_a_group_are_set_right_while_its_member_runs(world: World) {
    let world = group(world).await;
    let right = world.group(0).await.unwrap().config;
    edit(&world, |config| {
        config.max_ack_pending = 1;
        config.max_deliver = 3;
        config.backoff = vec![Duration::from_secs(3_600); 2];
    })
    .await;
    goes_on(&world).await;
    until_within(MENDED, "all is as it was", || async {
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
async fn a_stream_that_is_sealed_gives_what_it_holds_and_ends_no_member() {
    let world = group(World::start().await).await;
    world.publish("while it was edited").await;
    let mut config =
        world.jetstream.get_stream(TICKETS.name).await.unwrap().cached_info().config.clone();
    config.sealed = true;
    world.jetstream.update_stream(stream::Config { ..config }).await.unwrap();
    edit(&world, |config| config.max_ack_pending = 5).await;
    until_within(MENDED, "the group is set right all the same", || async {
        let group = world.group(0).await;
        group.is_some_and(|group| group.config.max_ack_pending > 5)
    })
    .await;
    until("what it holds takes effect", || async { world.effects(0).await.len() == 2 }).await;
    // A person deletes it, and all goes on.
    world.jetstream.delete_stream(TICKETS.name).await.unwrap();
    until_within(MENDED, "the group is there again", || async { world.group(0).await.is_some() })
        .await;
    world.publish("anew").await;
    until_within(MENDED, "it goes on", || async { world.effects(0).await.len() == 3 }).await;
}
