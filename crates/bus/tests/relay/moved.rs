//! A log that was moved: from another cluster, or from the previous release.

use futures::{StreamExt, TryStreamExt};
use sqlx::PgPool;

use crate::world::{PARCELS, World, until};

/// Copies a table, like a dump and restore.
async fn copy(from: &PgPool, to: &PgPool, table: &str, columns: &str) {
    let mut source = from.acquire().await.unwrap();
    let bytes: Vec<_> = source
        .copy_out_raw(&format!("copy (select {columns} from {table}) to stdout"))
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    let mut target = to.acquire().await.unwrap();
    let mut copying =
        target.copy_in_raw(&format!("copy {table} ({columns}) from stdin")).await.unwrap();
    for chunk in bytes {
        copying.send(chunk).await.unwrap();
    }
    copying.finish().await.unwrap();
}

/// Uses up transaction numbers.
async fn age(pool: &PgPool, transactions: usize) {
    futures::stream::iter(0..transactions)
        .for_each_concurrent(8, |_| async {
            sqlx::query("select pg_current_xact_id()").execute(pool).await.unwrap();
        })
        .await;
}

const LOG: &str = "slot, position, transaction, written_at, id, stream, subject, envelope";

#[tokio::test]
async fn a_database_restored_into_another_cluster_neither_stalls_nor_loses_anything() {
    let mut world = World::start().await;
    // The old cluster's transaction numbers are far from the new one's.
    age(&world.pool, 3_000).await;
    let relay = world.relay("a");
    world.send(0..100).await;
    world.until_stored(0..100).await;
    world.until_quiet().await;
    drop(relay);
    // Committed, but not published when the dump was made.
    world.send(100..200).await;
    let elsewhere = World::start().await;
    copy(&world.pool, &elsewhere.pool, "bus.log", LOG).await;
    copy(&world.pool, &elsewhere.pool, "bus.progress", "stream, cluster, done, done_at, created, last_sequence, last_id, first_sequence, deleted, acknowledged").await;
    sqlx::query("select setval('bus.log_position_seq', (select max(position) from bus.log))")
        .execute(&elsewhere.pool)
        .await
        .unwrap();
    let World { postgres, pool, nats: _ } = elsewhere;
    (world.postgres, world.pool) = (postgres, pool);
    // Committed in the new cluster before a relay runs there, under a number that the old one used.
    world.send(200..300).await;
    let _relay = world.relay("b");
    world.until_stored(0..300).await;
    world.send(300..400).await;
    world.until_stored(0..400).await;
    world.until_quiet().await;
    // Events that the stream loses are found, whichever cluster they are from.
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    async_nats::jetstream::new(client).delete_stream(PARCELS.name).await.unwrap();
    until("the new cluster's events are stored again", || async {
        let stored = world.stored().await;
        (100..400).all(|number| stored.contains_key(&number))
    })
    .await;
}

#[tokio::test]
async fn a_log_restored_without_its_progress_is_published() {
    let mut world = World::start().await;
    age(&world.pool, 3_000).await;
    world.send(0..100).await;
    let elsewhere = World::start().await;
    copy(&world.pool, &elsewhere.pool, "bus.log", LOG).await;
    let World { postgres, pool, nats: _ } = elsewhere;
    (world.postgres, world.pool) = (postgres, pool);
    let _relay = world.relay("b");
    world.until_stored(0..100).await;
    world.until_quiet().await;
}

/// Writes a row of `bus.outbox` with flags, as the previous release does.
async fn write_as_before(pool: &PgPool, numbers: std::ops::Range<i64>, published: bool) {
    for number in numbers {
        sqlx::query(
            "insert into bus.outbox (id, stream, subject, envelope, published_at, stream_created,
                                     stream_sequence)
             select id, 'PARCELS', 'parcel:sent', replace($1, 'ID', id::text),
                    case when $2 then now() end, case when $2 then timestamptz '2020-01-01' end,
                    case when $2 then $3 end
             from (select gen_random_uuid() as id)",
        )
        .bind(format!(
            r#"{{"specversion":"1.0","id":"ID","source":"/parcels","type":"parcel:sent","subject":"1","time":"2026-01-01T00:00:00Z","dataschema":"urn:ticketing:event:parcel:sent:1","data":"{number}"}}"#
        ))
        .bind(published)
        .bind(number + 1)
        .execute(pool)
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn events_of_the_previous_release_are_published_unless_they_already_were() {
    let world = World::start().await;
    let _relay = world.relay("a");
    world.send([0]).await;
    world.until_stored([0]).await;
    write_as_before(&world.pool, 1..50, false).await;
    world.until_stored(0..50).await;
    // These were published to a stream that no longer exists.
    write_as_before(&world.pool, 100..700, true).await;
    until("all rows are imported", || async {
        sqlx::query_scalar::<_, i64>("select count(*) from bus.outbox")
            .fetch_one(&world.pool)
            .await
            .unwrap()
            == 0
    })
    .await;
    world.send([99]).await;
    world.until_stored([99]).await;
    let stored = world.stored().await;
    assert!(!stored.contains_key(&100), "published although it was published before");
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    async_nats::jetstream::new(client).delete_stream(PARCELS.name).await.unwrap();
    world.until_stored((0..50).chain(99..700)).await;
}
