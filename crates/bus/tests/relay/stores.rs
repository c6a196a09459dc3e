//! Which events each store keeps when NATS restarts.

use async_nats::jetstream::stream::StorageType;
use bus::{Bus, Options, Shutdown, Store, TopologyError, outbox, topology};

use crate::world::{PARCELS, World, until};

/// How many published events are marked as lost.
async fn lost(world: &World) -> i64 {
    let mut connection = world.pool.acquire().await.unwrap();
    outbox::depth(&mut connection, PARCELS.name).await.unwrap().lost
}

async fn storage(world: &World) -> StorageType {
    world.stream().await.cached_info().config.storage
}

#[tokio::test]
async fn a_nats_restart_loses_events_stored_in_memory_until_another_store_republishes_them() {
    let mut world = World::start().await;
    let relay = world.relay_with("a", Store::Memory);
    world.send(0..10).await;
    world.until_stored(0..10).await;
    assert_eq!(storage(&world).await, StorageType::Memory);
    world.nats.kill().await;
    // Not published yet, so not lost.
    world.send(10..20).await;
    world.nats.restart().await.unwrap();
    world.until_stored(10..20).await;
    until("the loss is known", || async { lost(&world).await == 10 }).await;
    assert_eq!(world.stored().await.into_keys().collect::<Vec<_>>(), Vec::from_iter(10..20));
    drop(relay);
    let _relay = world.relay_with("b", Store::Postgres);
    world.until_stored(0..20).await;
    world.until_quiet().await;
}

#[tokio::test]
async fn with_postgres_as_the_store_a_nats_restart_loses_nothing() {
    let mut world = World::start().await;
    let _relay = world.relay_with("a", Store::Postgres);
    world.send(0..2_000).await;
    world.until_stored(0..2_000).await;
    assert_eq!(storage(&world).await, StorageType::Memory);
    world.nats.kill().await;
    world.nats.restart().await.unwrap();
    world.until_stored(0..2_000).await;
    world.until_quiet().await;
}

#[tokio::test]
async fn a_stream_with_another_storage_type_is_refused_until_it_is_deleted() {
    let world = World::start().await;
    let relay = world.relay_with("a", Store::File);
    world.send(0..10).await;
    world.until_stored(0..10).await;
    world.until_quiet().await;
    drop(relay);
    let (shutdown, _reason) = Shutdown::new();
    let options = testkit::connection::options(world.nats.url(), "b");
    let options = Options { store: Some(Store::Postgres), ..options };
    let bus = Bus::connect(&options, &shutdown).await.unwrap();
    bus.connected().await;
    let refused = topology::stream(&bus, &PARCELS).await.unwrap_err();
    assert!(matches!(refused, TopologyError::Drift { .. }), "{refused}");
    assert!(refused.to_string().contains("file storage, which the store postgres"), "{refused}");

    let _relay = world.relay_with("b", Store::Postgres);
    world.send(10..20).await;
    bus.jetstream.delete_stream(PARCELS.name).await.unwrap();
    world.until_stored(0..20).await;
    world.until_quiet().await;
    assert_eq!(storage(&world).await, StorageType::Memory);
}
