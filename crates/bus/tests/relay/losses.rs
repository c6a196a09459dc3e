//! Events that a stream loses are republished, unless every group has had them.

use std::{fs, path::Path};

use async_nats::jetstream::{self, consumer::pull, stream::Config};
use embedded::NatsServer;
use futures::StreamExt;

use crate::world::{PARCELS, World, until};

/// Creates a group that has acknowledged the first so many events.
pub(crate) async fn group_that_had(world: &World, events: usize) {
    let stream = world.stream().await;
    let config = pull::Config { durable_name: Some("group".to_owned()), ..pull::Config::default() };
    let consumer = stream.create_consumer(config).await.unwrap();
    if events > 0 {
        let mut messages = consumer.fetch().max_messages(events).messages().await.unwrap();
        while let Some(message) = messages.next().await {
            message.unwrap().double_ack().await.unwrap();
        }
    }
}

/// Waits until the relay knows what the group has acknowledged.
pub(crate) async fn until_known(world: &World, acknowledged: i64) {
    until("the relay knows what was acknowledged", || async {
        sqlx::query_scalar::<_, i64>("select acknowledged from bus.progress")
            .fetch_one(&world.pool)
            .await
            .unwrap()
            == acknowledged
    })
    .await;
}

#[tokio::test]
async fn a_deleted_stream_is_recreated_and_refilled() {
    let world = World::start().await;
    let _relay = world.relay("a");
    world.send(0..2_000).await;
    world.until_stored(0..2_000).await;
    world.until_quiet().await;
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    jetstream::new(client).delete_stream(PARCELS.name).await.unwrap();
    world.send([2_000]).await;
    world.until_stored(0..=2_000).await;
    world.until_quiet().await;
}

#[tokio::test]
async fn purged_events_are_republished_unless_the_group_has_had_them() {
    let world = World::start().await;
    let _relay = world.relay("a");
    // Two ranges: a relay starts a new one when it starts.
    world.send(0..10).await;
    world.until_stored(0..10).await;
    world.until_quiet().await;
    group_that_had(&world, 10).await;
    until_known(&world, 10).await;
    drop(_relay);
    let _relay = world.relay("b");
    world.send(10..20).await;
    world.until_stored(10..20).await;
    world.until_quiet().await;
    world.stream().await.purge().await.unwrap();
    // Within the server's duplicate window, so the server still knows their ids.
    world.until_stored(10..20).await;
    world.until_quiet().await;
    world.send([20]).await;
    world.until_stored([20]).await;
    let stored = world.stored().await;
    assert!((0..10).all(|number| !stored.contains_key(&number)), "{stored:?}");
}

#[tokio::test]
async fn messages_deleted_before_a_group_has_had_them_are_republished() {
    let world = World::start().await;
    let _relay = world.relay("a");
    world.send(0..10).await;
    world.until_stored(0..10).await;
    world.until_quiet().await;
    group_that_had(&world, 3).await;
    until_known(&world, 3).await;
    for sequence in [5, 6, 10] {
        world.stream().await.delete_message(sequence).await.unwrap();
    }
    world.until_stored(0..10).await;
    world.until_quiet().await;
}

#[tokio::test]
async fn a_limit_that_drops_events_is_removed_and_they_are_republished() {
    let world = World::start().await;
    let _relay = world.relay("a");
    world.send(0..100).await;
    world.until_stored(0..100).await;
    world.until_quiet().await;
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let config = world.stream().await.cached_info().config.clone();
    let limited =
        Config { max_messages: 10, discard: jetstream::stream::DiscardPolicy::Old, ..config };
    jetstream::new(client).update_stream(limited).await.unwrap();
    world.until_stored(0..100).await;
    world.until_quiet().await;
}

/// Stops the server, gives it this store, and restarts it.
async fn restore(nats: &mut NatsServer, store: &Path, backup: &Path) {
    nats.kill().await;
    fs::remove_dir_all(store).unwrap();
    copy(backup, store);
    nats.restart().await.unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn an_older_store_that_others_have_written_to_is_refilled() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::start().await;
    world.nats = NatsServer::builder().store_dir(folder.path()).start().await.unwrap();
    let relay = world.relay("a");
    world.send(0..100).await;
    world.until_stored(0..100).await;
    world.until_quiet().await;
    drop(relay);
    let (store, backup) = (folder.path().join("jetstream"), folder.path().join("backup"));
    world.nats.kill().await;
    copy(&store, &backup);
    world.nats.restart().await.unwrap();
    let relay = world.relay("b");
    world.send(100..200).await;
    world.until_stored(0..200).await;
    world.until_quiet().await;
    drop(relay);
    restore(&mut world.nats, &store, &backup).await;
    // More than were confirmed, so that its length reveals nothing.
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let jetstream = jetstream::new(client);
    for _ in 0..150 {
        jetstream.publish("parcel:sent", "foreign".into()).await.unwrap().await.unwrap();
    }
    assert!(!world.stored().await.contains_key(&150));
    // A page that the relay publishes before it has compared the stream must not hide the loss.
    world.send([200]).await;
    let _relay = world.relay("c");
    world.until_stored(0..=200).await;
    world.until_quiet().await;
}

#[tokio::test]
async fn a_lost_tail_is_republished_while_new_events_take_its_sequences() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::start().await;
    world.nats = NatsServer::builder().store_dir(folder.path()).start().await.unwrap();
    let _relay = world.relay("a");
    world.send(0..100).await;
    world.until_stored(0..100).await;
    world.until_quiet().await;
    let (store, backup) = (folder.path().join("jetstream"), folder.path().join("backup"));
    world.nats.kill().await;
    copy(&store, &backup);
    world.nats.restart().await.unwrap();
    world.send(100..150).await;
    world.until_stored(0..150).await;
    world.until_quiet().await;
    world.send(150..1_000).await;
    restore(&mut world.nats, &store, &backup).await;
    world.until_stored(0..1_000).await;
    world.until_quiet().await;
}

#[tokio::test]
async fn a_sealed_stream_is_refused_and_refilled_once_it_is_deleted() {
    let world = World::start().await;
    let _relay = world.relay("a");
    world.send(0..10).await;
    world.until_stored(0..10).await;
    world.until_quiet().await;
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let jetstream = jetstream::new(client);
    let config = world.stream().await.cached_info().config.clone();
    jetstream.update_stream(Config { sealed: true, ..config }).await.unwrap();
    // Senders are not affected.
    world.send(10..20).await;
    until("the events wait in the outbox", || async {
        let mut connection = world.pool.acquire().await.unwrap();
        let depth = bus::outbox::depth(&mut connection, PARCELS.name).await.unwrap();
        depth.unpublished == 10 && depth.oldest_seconds > 6.0
    })
    .await;
    jetstream.delete_stream(PARCELS.name).await.unwrap();
    world.until_stored(0..20).await;
    world.until_quiet().await;
}

#[tokio::test]
async fn a_full_store_takes_events_again_once_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::start().await;
    let limited = format!(
        "jetstream {{ store_dir: {:?}, sync_interval: always, max_file_store: 8MB }}",
        folder.path()
    );
    world.nats =
        NatsServer::builder().store_dir(folder.path()).settings(limited).start().await.unwrap();
    let _relay = world.relay("a");
    world.send(0..10).await;
    world.until_stored(0..10).await;
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let jetstream = jetstream::new(client);
    let other = Config {
        name: "OTHER".to_owned(),
        subjects: vec!["other".to_owned()],
        ..Config::default()
    };
    jetstream.create_stream(other).await.unwrap();
    while jetstream.publish("other", vec![0; 50_000].into()).await.unwrap().await.is_ok() {}
    world.send(10..2_000).await;
    until("the relay has retried a few times", || async {
        let mut connection = world.pool.acquire().await.unwrap();
        let depth = bus::outbox::depth(&mut connection, PARCELS.name).await.unwrap();
        depth.unpublished > 0 && depth.oldest_seconds > 5.0
    })
    .await;
    jetstream.delete_stream("OTHER").await.unwrap();
    world.until_stored(0..2_000).await;
    world.until_quiet().await;
}
