//! Events that have taken effect here: the guarantee that an effect happens once, however often
//! its event is delivered. The key is the event's id; stream sequences are used again after a
//! stream has lost its tail.

use std::time::Duration;

use sqlx::PgConnection;
use uuid::Uuid;

use crate::client_id::ClientId;

/// How long an id is remembered after it was last seen. Above the longest way that an event can
/// still take: published again at the end of the outbox's retention, and kept by the stream for
/// its whole age.
pub const RETENTION: Duration = Duration::from_secs(30 * 24 * 3600);

/// Claims events for this transaction. Returns those that are new; the others took effect before.
/// An event that another transaction is claiming is waited for.
///
/// # Errors
/// When the database does.
pub async fn claim(
    tx: &mut PgConnection,
    group: &str,
    client: &ClientId,
    events: &[Uuid],
) -> Result<Vec<Uuid>, sqlx::Error> {
    // In the order of ids, so that two members with the same events in their hands wait for one
    // another and do not deadlock.
    sqlx::query_scalar(
        "insert into bus.inbox (queue_group, event_id, client_id)
         select $1, event_id, $2 from unnest($3::uuid[]) as claimed (event_id) order by event_id
         on conflict do nothing
         returning event_id",
    )
    .bind(group)
    .bind(client.as_str())
    .bind(events)
    .fetch_all(tx)
    .await
}

/// Which of the events took effect before. Notes that they were seen again, so that they are
/// remembered for as long as they may still come.
///
/// # Errors
/// When the database does.
pub async fn seen(
    connection: &mut PgConnection,
    group: &str,
    events: &[Uuid],
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar(
        "update bus.inbox set seen_at = clock_timestamp()
         where queue_group = $1 and event_id = any($2)
         returning event_id",
    )
    .bind(group)
    .bind(events)
    .fetch_all(connection)
    .await
}

/// Forgets ids that were last seen longer ago than [`RETENTION`], at most `limit` of them.
/// Returns how many.
///
/// # Errors
/// When the database does.
pub async fn prune(connection: &mut PgConnection, limit: i64) -> Result<u64, sqlx::Error> {
    let pruned = sqlx::query(
        "delete from bus.inbox where (queue_group, event_id) in (
             select queue_group, event_id from bus.inbox
             where seen_at < clock_timestamp() - $1 order by seen_at limit $2
             for update skip locked)",
    )
    .bind(RETENTION)
    .bind(limit)
    .execute(connection)
    .await?;
    Ok(pruned.rows_affected())
}
