//! Objects that exist on the server already are used, repaired, or refused with the reason.

use async_nats::jetstream::{
    consumer::pull,
    stream::{Config, RetentionPolicy},
};
use common::{
    bus::{
        Options,
        topology::{self, TopologyError},
    },
    events::ticket::TICKETS,
};

use crate::member::{World, connect, until};

#[tokio::test]
async fn a_drifted_consumer_is_repaired_and_continues_where_it_was() {
    let world = World::start().await;
    world.publish_first().await;
    let drifted = pull::Config {
        durable_name: Some("first-service".to_owned()),
        ack_wait: Options::ACK_WAIT * 9,
        max_deliver: 2,
        ..pull::Config::default()
    };
    world.jetstream.create_consumer_on_stream(drifted, TICKETS.name).await.unwrap();
    world.member::<0>().await;
    let config = world.group(0).await.unwrap().config;
    assert_eq!((config.ack_wait, config.max_deliver), (Options::ACK_WAIT, -1));
    until("the unread event takes effect", || async { world.effects(0).await == ["first"] }).await;
}

#[tokio::test]
async fn an_unsuitable_stream_is_refused_with_the_reason() {
    let world = World::start().await;
    let config = Config {
        name: TICKETS.name.to_owned(),
        subjects: TICKETS.subjects.iter().map(ToString::to_string).collect(),
        retention: RetentionPolicy::WorkQueue,
        ..Config::default()
    };
    world.jetstream.create_stream(config).await.unwrap();
    let (bus, _pod) = connect(&world.nats.url(), "someone").await;
    bus.connected().await;
    let refused = topology::stream(&bus, &TICKETS).await.unwrap_err();
    assert!(matches!(refused, TopologyError::Drift { .. }));
    let said = refused.to_string();
    assert!(said.contains("stream TICKETS") && said.contains("retention"), "{said}");
}

#[tokio::test]
async fn a_stream_that_lacks_a_subject_gets_it_and_keeps_the_others() {
    let world = World::start().await;
    let config = Config {
        name: TICKETS.name.to_owned(),
        subjects: vec!["ticket:created".to_owned(), "ticket:of-another-release".to_owned()],
        ..Config::default()
    };
    world.jetstream.create_stream(config).await.unwrap();
    let (bus, _pod) = connect(&world.nats.url(), "someone").await;
    bus.connected().await;
    topology::stream(&bus, &TICKETS).await.unwrap();
    let stream = world.jetstream.get_stream(TICKETS.name).await.unwrap();
    let subjects = &stream.cached_info().config.subjects;
    for subject in ["ticket:created", "ticket:updated", "ticket:of-another-release"] {
        assert!(subjects.iter().any(|found| found == subject), "{subject} is not in {subjects:?}");
    }
}
