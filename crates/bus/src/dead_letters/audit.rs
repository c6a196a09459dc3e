//! The audit log of what operators did to dead letters: written by [`acts`](super::acts), read and pruned here.

use std::time::Duration;

use serde::Serialize;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

/// How long a record is kept.
pub const KEPT: Duration = Duration::from_secs(90 * 24 * 3600);
/// How many records are kept at most.
pub const MOST_KEPT: i64 = 100_000;
/// How many dead letters of a record are shown.
const SHOWN: i64 = 20;

/// The audit record of an act.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
pub struct AuditRecord {
    /// Its number.
    pub id: i64,
    /// When it happened.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// `redrive` or `discard`.
    pub act: String,
    /// The name that the operator gave.
    pub operator: String,
    /// The process that acted for them.
    pub via: String,
    /// The operator's request.
    pub selection: serde_json::Value,
    /// How many dead letters that was.
    pub letters: i64,
    /// The events of the first twenty of them, as an array of objects: `deadLetter`, `eventId`, `queueGroup`,
    /// `subject`, `reason`.
    pub events: serde_json::Value,
}

/// Records older than the one with the number `before`, newest first, at most `limit`.
///
/// # Errors
/// Any database error.
pub async fn newest(
    connection: &mut PgConnection,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<AuditRecord>, sqlx::Error> {
    sqlx::query_as(
        "select record.*, coalesce((
             select jsonb_agg(jsonb_build_object('deadLetter', dead_letter, 'eventId', event_id,
                        'queueGroup', queue_group, 'subject', subject, 'reason', reason) order by dead_letter)
             from (select dead_letter, event_id, queue_group, subject, reason from bus.operator_act_letters
                   where operator_act_letters.act = record.id
                   order by dead_letter limit $3) as first), '[]') as events
         from (select id, at, act, operator, via, selection, letters from bus.operator_acts
               where id < $1 order by id desc limit $2) as record
         order by id desc",
    )
    .bind(before.unwrap_or(i64::MAX))
    .bind(limit)
    .bind(SHOWN)
    .fetch_all(connection)
    .await
}

/// An act on the dead letter of an event.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct ActOnEvent {
    /// The event's id.
    pub event_id: Uuid,
    /// The group in which it failed.
    pub queue_group: String,
    /// `redrive` or `discard`.
    pub act: String,
    /// When.
    pub at: OffsetDateTime,
    /// The name that the operator gave.
    pub operator: String,
}

/// The acts on the dead letters of these events, oldest first: at most ten for each.
///
/// # Errors
/// Any database error.
pub async fn on_events(
    connection: &mut PgConnection,
    events: &[Uuid],
) -> Result<Vec<ActOnEvent>, sqlx::Error> {
    sqlx::query_as(
        "select done.* from unnest($1::uuid[]) as asked (id)
         cross join lateral (
             select event_id, queue_group, record.act, at, operator
             from bus.operator_act_letters as letter join bus.operator_acts as record on record.id = letter.act
             where event_id = asked.id order by letter.act desc limit 10) as done
         order by at",
    )
    .bind(events)
    .fetch_all(connection)
    .await
}

/// Deletes records older than [`KEPT`], and all but the newest [`MOST_KEPT`]: at most `limit` of them. Returns how
/// many.
///
/// # Errors
/// Any database error.
pub async fn prune(connection: &mut PgConnection, limit: i64) -> Result<u64, sqlx::Error> {
    let pruned = sqlx::query(
        "delete from bus.operator_acts where id = any(array(
             (select id from bus.operator_acts where at < now() - $1 order by at limit $3)
             union
             (select id from bus.operator_acts
              where id <= (select max(id) from bus.operator_acts) - $2 order by id limit $3)))",
    )
    .bind(KEPT)
    .bind(MOST_KEPT)
    .bind(limit)
    .execute(connection)
    .await?;
    Ok(pruned.rows_affected())
}
