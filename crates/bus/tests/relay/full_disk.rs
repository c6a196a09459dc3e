//! nats-server's disk is really full: the server stops writing to the stream permanently.

use std::time::{Duration, Instant};

use async_nats::jetstream::{self, consumer::pull};
use embedded::{NatsServer, small_disk};
use futures::StreamExt;
use time::OffsetDateTime;

use crate::{
    losses::{group_that_had, until_known},
    world::{PARCELS, World, until},
};

/// Holds a few thousand events, and fills up quickly.
const DISK: u64 = 24 << 20;

/// A world whose nats-server has a small disk; `None` if this machine does not allow one.
async fn world_with_a_small_disk() -> Option<World> {
    if !small_disk::is_possible() {
        println!("NOT RUN: this machine does not allow mount namespaces");
        return None;
    }
    let mut world = World::start().await;
    world.nats = NatsServer::builder().small_disk(DISK).start().await.unwrap();
    Some(world)
}

async fn created(world: &World) -> OffsetDateTime {
    world.stream().await.cached_info().created
}

async fn until_waiting(world: &World, events: u64, seconds: f64) {
    until("events wait", || async {
        let mut connection = world.pool.acquire().await.unwrap();
        let depth = bus::outbox::depth(&mut connection, PARCELS.name).await.unwrap();
        depth.unpublished >= i64::try_from(events).unwrap() && depth.oldest_seconds > seconds
    })
    .await;
}

#[tokio::test]
async fn a_stream_whose_disk_was_full_recovers_within_10_s_of_free_space() {
    let Some(world) = world_with_a_small_disk().await else { return };
    let _relay = world.relay("a");
    world.send(0..1_000).await;
    world.until_stored(0..1_000).await;
    world.until_quiet().await;
    let before = created(&world).await;
    let disk = world.nats.small_disk().unwrap();
    disk.fill().unwrap();
    world.send(1_000..2_000).await;
    // Longer than two checks take.
    until_waiting(&world, 1, 12.0).await;
    assert!(world.nats.log().unwrap().contains("critical write error"));
    assert_eq!(created(&world).await, before, "it was recreated although there was no room");
    disk.make_room().unwrap();
    let since = Instant::now();
    world.until_stored(0..2_000).await;
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    world.until_quiet().await;
    assert_ne!(created(&world).await, before);
}

#[tokio::test]
async fn a_stream_with_foreign_messages_is_recreated_only_after_every_group_has_had_them() {
    let Some(world) = world_with_a_small_disk().await else { return };
    let _relay = world.relay("a");
    world.send(0..10).await;
    world.until_stored(0..10).await;
    group_that_had(&world, 10).await;
    until_known(&world, 10).await;
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let jetstream = jetstream::new(client);
    jetstream.publish("parcel:sent", "foreign".into()).await.unwrap().await.unwrap();
    let before = created(&world).await;
    let disk = world.nats.small_disk().unwrap();
    disk.fill().unwrap();
    world.send(10..500).await;
    until("the server has stopped writing", || async {
        world.nats.log().unwrap().contains("critical write error")
    })
    .await;
    disk.make_room().unwrap();
    until_waiting(&world, 1, 12.0).await;
    assert_eq!(created(&world).await, before, "another publisher's message was deleted");
    let stream = world.stream().await;
    let group = stream.get_consumer::<pull::Config>("group").await.unwrap();
    let mut messages = group.fetch().max_messages(1).messages().await.unwrap();
    let message = messages.next().await.unwrap().unwrap();
    assert_eq!(&message.payload[..], b"foreign");
    message.double_ack().await.unwrap();
    world.until_stored(0..500).await;
    world.until_quiet().await;
    assert_ne!(created(&world).await, before);
}
