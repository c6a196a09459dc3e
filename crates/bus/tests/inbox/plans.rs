//! How much the inbox's statements read of a filled table, by Postgres's own counters, with custom
//! and with generic plans.

use bus::{
    ClientId, dead_letters,
    inbox::{self, Standing},
};
use sqlx::{Connection, PgConnection, PgPool, postgres::PgConnectOptions};
use uuid::Uuid;

use crate::world::{GROUP, World, claims};

/// Counts what was read of the inbox's partitions: rows by sequential scans, and index entries.
async fn read(connection: &mut PgConnection, pool: &PgPool) -> (i64, i64) {
    sqlx::raw_sql("select pg_stat_force_next_flush()").execute(&mut *connection).await.unwrap();
    sqlx::raw_sql("select 1").execute(connection).await.unwrap();
    sqlx::query_as(
        "select (select sum(seq_tup_read)::bigint from pg_stat_user_tables where relname like 'inbox%'),
                (select sum(idx_tup_read)::bigint from pg_stat_user_indexes where relname like 'inbox%')",
    )
    .fetch_one(pool)
    .await
    .unwrap()
}

#[tokio::test]
async fn no_statement_of_the_inbox_reads_more_than_it_needs() {
    const BATCH: usize = 256;
    let world = World::start().await;
    // One connection, whose own scans are counted before the measurement begins.
    let mut filling = world.pool.acquire().await.unwrap();
    sqlx::raw_sql(
        "insert into bus.inbox (queue_group, event_id, client_id)
         select grp, uuidv7(make_interval(secs => -random() * 28 * 86400)), 'a'
         from generate_series(1, 150000), unnest(array['parcel-service', 'another']) as grp;
         insert into bus.inbox (queue_group, event_id, client_id, processed_at)
         select 'parcel-service', gen_random_uuid(), 'a', now() - make_interval(hours => (n / 100))
         from generate_series(1, 100000) as n;
         analyze",
    )
    .execute(&mut *filling)
    .await
    .unwrap();
    let known: Vec<Uuid> = sqlx::query_scalar(
        "select event_id from bus.inbox where queue_group = 'parcel-service'
         and processed_at > now() - interval '9 days' order by random() limit 256",
    )
    .fetch_all(&mut *filling)
    .await
    .unwrap();
    read(&mut filling, &world.pool).await;
    let client: ClientId = "a".parse().unwrap();
    for mode in ["force_generic_plan", "force_custom_plan"] {
        let options = PgConnectOptions::clone(&world.pool.connect_options());
        let options = options.options([("plan_cache_mode", mode)]);
        let mut connection = PgConnection::connect_with(&options).await.unwrap();
        let mut before = read(&mut connection, &world.pool).await;
        let mut cost = async |connection: &mut PgConnection, what: &str, most: usize| {
            let now = read(connection, &world.pool).await;
            let (rows, entries) = (now.0 - before.0, now.1 - before.1);
            before = now;
            println!("{mode}, {what}: {rows} rows by scans, {entries} entries of indexes");
            assert!(rows + entries <= i64::try_from(most).unwrap(), "{mode}, {what} read too much");
        };
        let found = inbox::known(&mut connection, GROUP, &claims(&known)).await.unwrap();
        assert_eq!(found, vec![Standing::Known; BATCH]);
        cost(&mut connection, "known ids", 2 * BATCH).await;
        let new: Vec<Uuid> =
            known.iter().copied().chain((0..BATCH).map(|_| Uuid::now_v7())).collect();
        let claimed = inbox::claim(&mut connection, GROUP, &client, &claims(&new)).await.unwrap();
        assert_eq!(claimed.iter().filter(|found| **found == Standing::New).count(), BATCH);
        cost(&mut connection, "a claim", 4 * BATCH).await;
        assert_eq!(inbox::prune(&mut connection, 1_000).await.unwrap(), 1_000);
        cost(&mut connection, "pruning a thousand", 3_000).await;
        inbox::empty_expired(&mut connection).await.unwrap();
        inbox::drop_previous_table(&mut connection).await.unwrap();
        cost(&mut connection, "looking for expired partitions", 1).await;
    }
    let mut connection = world.pool.acquire().await.unwrap();
    while inbox::prune(&mut connection, 10_000).await.unwrap() > 0 {}
    let before = read(&mut connection, &world.pool).await;
    inbox::prune(&mut connection, 1_000).await.unwrap();
    let after = read(&mut connection, &world.pool).await;
    let read = (after.0 - before.0, after.1 - before.1);
    println!("nothing to prune: {read:?}");
    // Entries of rows that were just deleted may be read once more.
    assert!(read.0 == 0 && read.1 <= 1_000, "{read:?} to find that nothing is old");
}

#[tokio::test]
async fn counting_dead_letters_reads_no_more_than_it_counts() {
    let world = World::start().await;
    sqlx::raw_sql(
        "insert into bus.dead_letters (queue_group, event_id, subject, payload, headers, stream,
                                       stream_sequence, reason, attempts, client_id)
         select grp, gen_random_uuid(), 'parcel:sent', '', '{}', 'PARCELS', n, 'why', 5, 'a'
         from generate_series(1, 30000) as n, unnest(array['parcel-service', 'another']) as grp;
         analyze bus.dead_letters",
    )
    .execute(&world.pool)
    .await
    .unwrap();
    let read = async || -> i64 {
        world
            .number(
                "select coalesce(sum(seq_tup_read), 0)::bigint + (
                     select sum(idx_tup_read)::bigint from pg_stat_user_indexes
                     where relname = 'dead_letters')
                 from pg_stat_user_tables where relname = 'dead_letters'",
            )
            .await
    };
    let mut connection = world.pool.acquire().await.unwrap();
    let before = read().await;
    let counted = dead_letters::count(&mut connection, GROUP).await.unwrap();
    sqlx::raw_sql("select pg_stat_force_next_flush()").execute(&mut *connection).await.unwrap();
    sqlx::raw_sql("select 1").execute(&mut *connection).await.unwrap();
    let looked_at = read().await - before;
    assert_eq!(counted, dead_letters::COUNTED);
    // Without its index, entries of the other group are skipped.
    assert!(looked_at <= 2 * dead_letters::COUNTED + 1_000, "{looked_at} rows or entries");
    assert_eq!(dead_letters::count(&mut connection, "nobody").await.unwrap(), 0);
}
