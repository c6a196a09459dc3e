//! Idempotency keys are deleted after a day, at a cost that does not grow with the keys of that
//! day.

use common::{bus::Shutdown, pod::idempotency};

use crate::member::{World, until};

#[tokio::test]
async fn deleting_old_keys_does_not_read_recent_ones() {
    let world = World::start().await;
    sqlx::raw_sql(
        "insert into chassis.idempotency_keys (key, request_hash, resource_id, answer, created_at)
         select 'key ' || n, '', gen_random_uuid(), '',
                now() - case when n <= 10 then interval '25 hours' else interval '1 hour' end
         from generate_series(1, 200000) as n;
         analyze chassis.idempotency_keys;
         select pg_stat_reset()",
    )
    .execute(&world.pool)
    .await
    .unwrap();
    let (shutdown, _reason) = Shutdown::new();
    let pruning = idempotency::prune(world.pool.clone().into(), shutdown.clone());
    shutdown.spawn("idempotency keys", pruning);
    let deleted = || async {
        sqlx::query_as::<_, (i64, i64, i64)>(
            "select n_tup_del, coalesce(seq_tup_read, 0), coalesce(idx_tup_fetch, 0)
             from pg_stat_user_tables where relname = 'idempotency_keys'",
        )
        .fetch_one(&world.pool)
        .await
        .unwrap()
    };
    until("the old ones are gone", || async { deleted().await.0 == 10 }).await;
    let (_, scanned, fetched) = deleted().await;
    assert!(scanned + fetched < 1_000, "{scanned} rows read by scans, {fetched} by an index");
    shutdown.begin();
}
