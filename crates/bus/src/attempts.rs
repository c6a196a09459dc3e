//! How often an event was tried: written down before it is tried, so that a handler that kills its
//! process is counted as well, and only for what was being tried, so that its neighbours are not.

use std::collections::HashMap;

use uuid::Uuid;

use crate::{pool::Pool, storable};

/// How often each of the events was tried before, and what came of it last.
pub(crate) async fn of(
    pool: &Pool,
    group: &str,
    events: &[Uuid],
) -> Result<HashMap<Uuid, (i32, String)>, sqlx::Error> {
    let known = sqlx::query_as(
        "select event_id, attempts, last_error from bus.attempts
         where queue_group = $1 and event_id = any($2)",
    )
    .bind(group)
    .bind(events);
    let rows: Vec<(Uuid, i32, String)> =
        pool.run(async |connection| known.fetch_all(connection).await).await?;
    Ok(rows.into_iter().map(|(id, attempts, error)| (id, (attempts, error))).collect())
}

/// Counts an attempt for each of the events, which is about to begin. An event of which there are
/// several copies is tried once.
pub(crate) async fn begin(pool: &Pool, group: &str, events: &[Uuid]) -> Result<(), sqlx::Error> {
    let count = sqlx::query(
        "insert into bus.attempts (queue_group, event_id, attempts)
         select distinct $1, event_id, 1 from unnest($2::uuid[]) as begun (event_id)
         order by event_id
         on conflict (queue_group, event_id) do update
         set attempts = attempts.attempts + 1, last_at = clock_timestamp(),
             last_error = 'the process ended while the event was handled'",
    )
    .bind(group)
    .bind(events);
    pool.transaction(async |tx| {
        // Not worth waiting for the disk: should the machine lose it, one attempt goes uncounted.
        sqlx::query("set local synchronous_commit = off").execute(&mut *tx).await?;
        count.execute(tx).await.map(drop)
    })
    .await
}

/// Takes back an attempt for each time that an event is named: an outage of the database cut it
/// short. Succeeds only where the database can write, even if there are none.
pub(crate) async fn take_back(
    pool: &Pool,
    group: &str,
    events: &[Uuid],
) -> Result<(), sqlx::Error> {
    let take_back = sqlx::query(
        "update bus.attempts set attempts = greatest(attempts - in_vain.times, 0)
         from (select id, count(*)::integer as times from unnest($2::uuid[]) as ids (id) group by id)
             as in_vain
         where queue_group = $1 and event_id = in_vain.id",
    )
    .bind(group)
    .bind(events);
    pool.run(async |connection| take_back.execute(connection).await.map(drop)).await
}

/// Notes why an attempt failed. Returns how many there were.
pub(crate) async fn failed(
    pool: &Pool,
    group: &str,
    event: Uuid,
    error: &str,
) -> Result<i32, sqlx::Error> {
    let note = sqlx::query_scalar(
        "insert into bus.attempts (queue_group, event_id, attempts, last_error)
         values ($1, $2, 1, $3)
         on conflict (queue_group, event_id) do update set last_error = excluded.last_error
         returning attempts",
    )
    .bind(group)
    .bind(event)
    .bind(storable(error));
    pool.run(async |connection| note.fetch_one(connection).await).await
}

/// Forgets the attempts of events that have taken effect.
pub(crate) async fn forget(
    tx: &mut sqlx::PgConnection,
    group: &str,
    events: &[Uuid],
) -> Result<(), sqlx::Error> {
    sqlx::query("delete from bus.attempts where queue_group = $1 and event_id = any($2)")
        .bind(group)
        .bind(events)
        .execute(tx)
        .await?;
    Ok(())
}
