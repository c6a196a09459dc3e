//! Events are found by their entity, with where they were published, at a cost that does not grow with the log.

use bus::{
    Bus, Pool,
    timeline::{
        newest,
        published::{self, Event, Page, Publication},
    },
};
use sqlx::PgConnection;
use testkit::connection::{connect, options};
use time::OffsetDateTime;
use uuid::{NoContext, Timestamp, Uuid};

use crate::world::{PARCELS, World, until};

async fn looker(world: &World) -> (Bus, Pool) {
    let (bus, _) = connect(&options(world.nats.url(), "looker")).await;
    (bus, world.pool.clone().into())
}

async fn of(looker: &(Bus, Pool), number: i64) -> Page {
    published::events(&looker.1, &looker.0, &number.to_string(), None).await.unwrap()
}

fn sequence(event: &Event) -> Option<i64> {
    match event.publication {
        Publication::Stored { sequence, .. } => Some(sequence),
        _ => None,
    }
}

#[tokio::test]
async fn an_entitys_events_are_found_while_unpublished_and_after_being_republished() {
    let world = World::start().await;
    let looker = looker(&world).await;
    world.send([1, 2]).await;
    let page = of(&looker, 2).await;
    assert!(page.complete && page.next.is_none());
    assert_eq!(page.events.len(), 1);
    assert_eq!(page.events[0].publication, Publication::Waiting);
    assert!(page.events[0].written_at >= page.events[0].time - time::Duration::seconds(1));

    let _relay = world.relay("a");
    world.until_stored([1, 2]).await;
    world.send([2, 3]).await;
    world.until_stored([1, 2, 3]).await;
    world.until_quiet().await;
    let page = of(&looker, 2).await;
    let found: Vec<_> = page.events.iter().map(sequence).collect();
    assert_eq!(found, [Some(2), Some(3)], "{:#?}", page.events);
    assert!(of(&looker, 4).await.events.is_empty());

    // Another client publishes in between, so the event's sequence is one higher than expected.
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let jetstream = async_nats::jetstream::new(client);
    jetstream.publish("parcel:sent", "no event".into()).await.unwrap().await.unwrap();
    world.send([5]).await;
    world.until_stored([5]).await;
    assert_eq!(of(&looker, 5).await.events.iter().filter_map(sequence).next(), Some(6));

    // The stream is lost, and its events are published again.
    jetstream.delete_stream(PARCELS.name).await.unwrap();
    until("it is published again", async || {
        of(&looker, 3).await.events.iter().filter_map(sequence).next().is_some()
            && world.stored().await.len() == 4
    })
    .await;
}

async fn read(connection: &mut PgConnection) -> i64 {
    sqlx::raw_sql("select pg_stat_force_next_flush()").execute(&mut *connection).await.unwrap();
    sqlx::raw_sql("select 1").execute(&mut *connection).await.unwrap();
    sqlx::query_scalar(
        "select (select sum(seq_tup_read)::bigint from pg_stat_user_tables
                 where schemaname = 'bus' and relname ~ '^(log|ranges)')
              + (select sum(idx_tup_read)::bigint from pg_stat_user_indexes
                 where schemaname = 'bus' and relname ~ '^(log|ranges)')",
    )
    .fetch_one(connection)
    .await
    .unwrap()
}

#[tokio::test]
async fn finding_an_event_does_not_read_the_whole_log() {
    let world = World::start().await;
    let looker = looker(&world).await;
    sqlx::raw_sql(
        "insert into bus.log (slot, transaction, written_at, id, stream, subject, entity, envelope)
         select bus.log_slot(at), '2', at, gen_random_uuid(), 'PARCELS', 'parcel:sent',
                (random() * 1e18)::bigint, '{}'
         from (select now() - n * interval '14 days' / 300000 as at
               from generate_series(1, 300000) as n) as times;
         analyze bus.log",
    )
    .execute(&world.pool)
    .await
    .unwrap();
    let _relay = world.relay("a");
    world.send([1, 2, 3]).await;
    world.until_stored([1, 2, 3]).await;
    world.until_quiet().await;
    let mut connection = world.pool.acquire().await.unwrap();
    let before = read(&mut connection).await;
    assert_eq!(of(&looker, 2).await.events.len(), 1);
    let mut read_now = read(&mut connection).await - before;
    // The relay may have read a few rows meanwhile, so measure once more.
    if read_now > 2_000 {
        let before = read(&mut connection).await;
        of(&looker, 2).await;
        read_now = read(&mut connection).await - before;
    }
    assert!(read_now <= 2_000, "{read_now} rows and entries");

    let before = read(&mut connection).await;
    let page = newest::events(&mut connection, PARCELS.name, None, 2).await.unwrap();
    let next = newest::events(&mut connection, PARCELS.name, page.next, 2).await.unwrap();
    let read_now = read(&mut connection).await - before;
    assert!(read_now <= 2_000, "{read_now} rows and entries");
    let ids: std::collections::BTreeSet<_> =
        page.events.iter().chain(&next.events).map(|event| event.id).collect();
    assert_eq!((ids.len(), page.unpublished, page.lost), (4, 0, 0));
    assert!(page.events.iter().all(|event| event.published));
}

#[tokio::test]
async fn a_partition_in_use_during_the_upgrade_is_not_searched_and_is_indexed_once_emptied() {
    let world = World::start().await;
    let looker = looker(&world).await;
    world.send([1]).await;
    // The state after the migration: partitions with rows have no index, and one is about to be emptied.
    sqlx::raw_sql(
        "do $$
         declare past timestamptz := to_timestamp(floor(extract(epoch from now()) / 172800) * 172800)
                                     - interval '14 days 3 hours';
         begin
             for slot in 0..8 loop execute format('drop index bus.log_%s_entity', slot); end loop;
             insert into bus.log (slot, transaction, written_at, id, stream, subject, envelope)
             values (bus.log_slot(past), '2', past, gen_random_uuid(), 'PARCELS', 'parcel:sent', '{}');
         end $$",
    )
    .execute(&world.pool)
    .await
    .unwrap();
    let page = of(&looker, 1).await;
    assert_eq!(
        (page.events.len(), page.complete),
        (0, false),
        "the page must say that it is incomplete"
    );
    let _relay = world.relay("a");
    until("the partition is emptied and indexed", async || {
        sqlx::query_scalar::<_, i64>(
            "select count(*) from pg_indexes where schemaname = 'bus' and indexname ~ '^log_._entity$'",
        )
        .fetch_one(&world.pool)
        .await
        .unwrap()
            == 1
    })
    .await;
}

#[tokio::test]
async fn a_timeline_is_complete_only_if_no_unindexed_partition_may_hold_its_events() {
    let world = World::start().await;
    let looker = looker(&world).await;
    sqlx::raw_sql(
        "do $$
         declare past timestamptz := now() - interval '6 days';
         begin
             execute format('drop index bus.log_%s_entity', bus.log_slot(past));
             insert into bus.log (slot, transaction, written_at, id, stream, subject, envelope)
             values (bus.log_slot(past), '2', past, gen_random_uuid(), 'PARCELS', 'parcel:sent', '{}');
         end $$",
    )
    .execute(&world.pool)
    .await
    .unwrap();
    let complete = async |entity: &str| {
        published::events(&looker.1, &looker.0, entity, None).await.unwrap().complete
    };
    let made = |days: u64| {
        let now = u64::try_from(OffsetDateTime::now_utc().unix_timestamp()).unwrap();
        let at = Timestamp::from_unix(NoContext, now - days * 86_400, 0);
        Uuid::new_v7(at).to_string()
    };
    assert!(!complete("an id without a time").await);
    assert!(!complete(&made(10)).await, "its first events may be in that partition");
    assert!(complete(&made(1)).await, "it was created after that partition's window");
}
