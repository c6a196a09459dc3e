//! How often an event was tried: written down before it is tried, so that a handler that kills its
//! process is counted as well, and only for what was being tried, so that its neighbours are not.

use std::collections::HashMap;

use uuid::Uuid;

use crate::{pool::Pool, shortened};

/// What stands as the reason of an attempt until its outcome is known.
const INTERRUPTED: &str = "the process ended while the event was handled";

/// What is known of an event that was tried before.
pub(crate) struct Tried {
    /// How often.
    pub(crate) attempts: i32,
    /// What came of it last.
    pub(crate) last_error: String,
}

impl Tried {
    /// Whether nothing came of it: this event, or one that was tried with it, ended the process.
    pub(crate) fn was_interrupted(&self) -> bool {
        // The release before wrote nothing at first.
        self.last_error == INTERRUPTED || self.last_error.is_empty()
    }
}

/// How often each of the events was tried before, and what came of it last.
pub(crate) async fn of(
    pool: &Pool,
    group: &str,
    events: &[Uuid],
) -> Result<HashMap<Uuid, Tried>, sqlx::Error> {
    let known = sqlx::query_as(
        "select event_id, attempts, last_error from bus.attempts
         where queue_group = $1 and event_id = any($2)",
    )
    .bind(group)
    .bind(events);
    let rows: Vec<(Uuid, i32, String)> =
        pool.run(async |connection| known.fetch_all(connection).await).await?;
    Ok(rows
        .into_iter()
        .map(|(id, attempts, last_error)| (id, Tried { attempts, last_error }))
        .collect())
}

/// Counts an attempt for each of the events, which is about to begin. An event of which there are
/// several copies is tried once.
pub(crate) async fn begin(pool: &Pool, group: &str, events: &[Uuid]) -> Result<(), sqlx::Error> {
    let count = sqlx::query(
        "insert into bus.attempts (queue_group, event_id, attempts, last_error)
         select distinct $1, event_id, 1, $3 from unnest($2::uuid[]) as begun (event_id)
         order by event_id
         on conflict (queue_group, event_id) do update
         set attempts = attempts.attempts + 1, last_at = clock_timestamp(),
             last_error = excluded.last_error",
    )
    .bind(group)
    .bind(events)
    .bind(INTERRUPTED);
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
        "update bus.attempts set attempts = greatest(attempts - interrupted_attempts.times, 0)
         from (select id, count(*)::integer as times from unnest($2::uuid[]) as ids (id) group by id)
             as interrupted_attempts
         where queue_group = $1 and event_id = interrupted_attempts.id",
    )
    .bind(group)
    .bind(events);
    pool.run(async |connection| take_back.execute(connection).await.map(drop)).await
}

/// Notes why attempts failed, for each event by its reason. Returns how many there were of each.
pub(crate) async fn failed(
    pool: &Pool,
    group: &str,
    failed: &[(Uuid, String)],
) -> Result<HashMap<Uuid, i32>, sqlx::Error> {
    let (events, reasons): (Vec<Uuid>, Vec<String>) =
        failed.iter().map(|(event, reason)| (*event, shortened(reason))).unzip();
    let note = sqlx::query_as(
        "insert into bus.attempts (queue_group, event_id, attempts, last_error)
         select distinct on (event_id) $1, event_id, 1, reason
         from unnest($2::uuid[], $3::text[]) as failed (event_id, reason)
         order by event_id
         on conflict (queue_group, event_id) do update set last_error = excluded.last_error
         returning event_id, attempts",
    )
    .bind(group)
    .bind(events)
    .bind(reasons);
    let rows: Vec<(Uuid, i32)> =
        pool.run(async |connection| note.fetch_all(connection).await).await?;
    Ok(rows.into_iter().collect())
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
