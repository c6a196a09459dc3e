//! Background work costs the same however large the tables are.

use crate::world::{World, until};

/// Counts the rows read of the big tables: by sequential scans, and by index scans.
async fn read(world: &World) -> (i64, i64) {
    sqlx::query_as(
        "select coalesce(sum(seq_tup_read), 0)::bigint, coalesce(sum(idx_tup_fetch), 0)::bigint
         from pg_stat_user_tables where schemaname = 'bus' and relname ~ '^(log|outbox|ranges)'",
    )
    .fetch_one(&world.pool)
    .await
    .unwrap()
}

#[tokio::test]
async fn an_idle_relay_reads_nothing_of_a_long_history() {
    let world = World::start().await;
    // Half a million published events of two weeks.
    sqlx::raw_sql(
        "insert into bus.log (slot, transaction, written_at, id, stream, subject, envelope)
         select bus.log_slot(at), '2', at, gen_random_uuid(), 'PARCELS', 'parcel:sent', '{}'
         from (select now() - n * interval '14 days' / 500000 as at
               from generate_series(1, 500000) as n) as times;
         analyze bus.log",
    )
    .execute(&world.pool)
    .await
    .unwrap();
    let _relay = world.relay("a");
    world.send([1]).await;
    world.until_stored([1]).await;
    world.until_quiet().await;
    let (scanned, probed) = read(&world).await;
    // The relay also does all of its periodic work at its start.
    let ticks = |world: &World| {
        let pool = world.pool.clone();
        async move {
            sqlx::query_scalar::<_, i64>(
                "select xact_commit from pg_stat_database where datname = 'parcels'",
            )
            .fetch_one(&pool)
            .await
            .unwrap()
        }
    };
    let begun = ticks(&world).await;
    until("the relay has polled many times", || async { ticks(&world).await > begun + 60 }).await;
    world.send([2]).await;
    world.until_stored([2]).await;
    let (scanned, probed) = {
        let (now_scanned, now_probed) = read(&world).await;
        (now_scanned - scanned, now_probed - probed)
    };
    assert!(scanned < 1_000, "{scanned} rows by sequential scans");
    assert!(probed < 1_000, "{probed} rows by index scans");
}
