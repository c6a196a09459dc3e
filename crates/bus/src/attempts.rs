//! Counts the attempts to process an event. An attempt is stored before it starts, so that a listener that
//! kills its process is counted too, and only for the events being tried, not for their neighbours.

use std::collections::HashMap;

use uuid::Uuid;

use crate::{pool::Pool, text::shortened};

/// The stored error of an attempt until its outcome is known.
const INTERRUPTED: &str = "the process ended while the event was handled";

/// The attempts of one event.
pub(crate) struct Tried {
    /// How many.
    pub(crate) attempts: i32,
    /// The error of the last one.
    pub(crate) last_error: String,
}

impl Tried {
    /// Whether the last one ended the process: because of this event, or of one tried with it.
    pub(crate) fn was_interrupted(&self) -> bool {
        // The previous release stored no text at first.
        self.last_error == INTERRUPTED || self.last_error.is_empty()
    }
}

/// The previous attempts of each event.
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

/// Counts an attempt for each event, before it starts. Several copies of an event count once.
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
        // Not worth waiting for the disk: if the machine crashes, one attempt goes uncounted.
        sqlx::query("set local synchronous_commit = off").execute(&mut *tx).await?;
        count.execute(tx).await.map(drop)
    })
    .await
}

/// Uncounts one attempt for each time an event is listed: an outage of the database interrupted it. Fails
/// if the database does not accept writes, even for an empty list.
pub(crate) async fn uncount(pool: &Pool, group: &str, events: &[Uuid]) -> Result<(), sqlx::Error> {
    let uncount = sqlx::query(
        "update bus.attempts set attempts = greatest(attempts - interrupted_attempts.times, 0)
         from (select id, count(*)::integer as times from unnest($2::uuid[]) as ids (id) group by id)
             as interrupted_attempts
         where queue_group = $1 and event_id = interrupted_attempts.id",
    )
    .bind(group)
    .bind(events);
    pool.run(async |connection| uncount.execute(connection).await.map(drop)).await
}

/// Stores why attempts failed. Returns how many attempts each event has had.
pub(crate) async fn record_failures(
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

/// Deletes the attempts of events that have taken effect or became dead letters. Returns how many each had.
pub(crate) async fn forget(
    tx: &mut sqlx::PgConnection,
    group: &str,
    events: &[Uuid],
) -> Result<Vec<(Uuid, i32)>, sqlx::Error> {
    sqlx::query_as(
        "delete from bus.attempts where queue_group = $1 and event_id = any($2)
         returning event_id, attempts",
    )
    .bind(group)
    .bind(events)
    .fetch_all(tx)
    .await
}
