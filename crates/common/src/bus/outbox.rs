//! Events on their way out: written in the transaction that made them true, so that an event
//! exists exactly when its cause does.

use std::time::Duration;

use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{BusError, envelope};
use crate::events::Event;

/// Puts an event into the outbox, within the transaction of what it tells of. After the commit,
/// wake the relay ([`Relay::wake`](super::relay::Wake::wake)); without, it looks by itself within
/// a second.
///
/// Returns the event's id.
///
/// # Errors
/// When the event does not serialize or the database refuses; the transaction is then of no use.
pub async fn put<E: Event>(tx: &mut PgConnection, event: &E) -> Result<Uuid, BusError> {
    let ids = put_all(tx, std::slice::from_ref(event)).await?;
    Ok(ids[0])
}

/// Puts many events into the outbox in one statement. Returns their ids in the same order.
///
/// # Errors
/// As [`put`].
pub async fn put_all<E: Event>(tx: &mut PgConnection, events: &[E]) -> Result<Vec<Uuid>, BusError> {
    let now = OffsetDateTime::now_utc();
    let ids: Vec<Uuid> = events.iter().map(|_| Uuid::now_v7()).collect();
    let envelopes = ids
        .iter()
        .zip(events)
        .map(|(id, event)| envelope::seal(*id, now, event))
        .collect::<Result<Vec<_>, _>>()?;
    sqlx::query(
        "insert into bus.outbox (id, stream, subject, envelope)
         select id, $3, $4, envelope from unnest($1::uuid[], $2::text[]) as new (id, envelope)",
    )
    .bind(&ids)
    .bind(&envelopes)
    .bind(E::STREAM.name)
    .bind(E::SUBJECT)
    .execute(tx)
    .await?;
    Ok(ids)
}

/// What waits in the outbox.
#[derive(Debug, Clone, Copy, Default, sqlx::FromRow)]
pub struct Depth {
    /// Events not yet confirmed by the stream.
    pub unpublished: i64,
    /// How long the oldest of them has waited, in seconds; 0 when none waits.
    pub oldest_seconds: f64,
}

/// Looks how much waits.
///
/// # Errors
/// When the database does.
pub async fn depth(connection: &mut PgConnection) -> Result<Depth, sqlx::Error> {
    sqlx::query_as(
        "select count(*) as unpublished,
                coalesce(extract(epoch from clock_timestamp() - min(created_at)), 0)::float8
                    as oldest_seconds
         from bus.outbox where published_at is null",
    )
    .fetch_one(connection)
    .await
}

/// Deletes events that were published longer ago than `retention`, at most `limit` of them.
/// Returns how many.
///
/// # Errors
/// When the database does.
pub async fn prune(
    connection: &mut PgConnection,
    retention: Duration,
    limit: i64,
) -> Result<u64, sqlx::Error> {
    let pruned = sqlx::query(
        "delete from bus.outbox where id in (
             select id from bus.outbox where published_at < clock_timestamp() - $1
             order by published_at limit $2 for update skip locked)",
    )
    .bind(retention)
    .bind(limit)
    .execute(connection)
    .await?;
    Ok(pruned.rows_affected())
}
