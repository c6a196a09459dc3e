//! The outcome of events in the queue groups of this service.

use serde::Serialize;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::dead_letters::audit;

/// The most events that are asked for at once.
pub const MAX_EVENTS: usize = 400;

/// An event in a queue group that has some record of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Received {
    /// The event.
    pub event_id: Uuid,
    /// The queue group.
    pub queue_group: String,
    /// When NATS delivered it to the member whose effect was committed, by that member's clock. `None` if it was a
    /// redriven dead letter.
    #[serde(with = "time::serde::rfc3339::option")]
    pub delivered_at: Option<OffsetDateTime>,
    /// The member whose effect was committed, if it was.
    pub applied_by: Option<String>,
    /// When that member began to apply it; the commit followed.
    #[serde(with = "time::serde::rfc3339::option")]
    pub applied_at: Option<OffsetDateTime>,
    /// How often it was tried on its own, if it was: most events take effect together with others, at once.
    pub attempts: Option<i32>,
    /// Why the last attempt failed, while it is tried again.
    pub last_error: Option<String>,
    /// When the last attempt began, while it is tried again.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_attempt_at: Option<OffsetDateTime>,
    /// The number of its dead letter.
    pub dead_letter: Option<i64>,
    /// Why it is a dead letter.
    pub reason: Option<String>,
    /// When it became one, or failed again.
    #[serde(with = "time::serde::rfc3339::option")]
    pub dead_at: Option<OffsetDateTime>,
    /// The member that gave up.
    pub dead_by: Option<String>,
    /// When its dead letter was redriven, while it waits to be retried.
    #[serde(with = "time::serde::rfc3339::option")]
    pub redrive_at: Option<OffsetDateTime>,
    /// The acts of operators on its dead letter, oldest first.
    pub acts: Vec<Act>,
}

/// An operator's act.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Act {
    /// `redrive` or `discard`.
    pub act: String,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// The name that the operator gave.
    pub operator: String,
}

#[derive(Debug, sqlx::FromRow)]
struct Row {
    event_id: Uuid,
    queue_group: String,
    delivered_at: Option<OffsetDateTime>,
    applied_by: Option<String>,
    applied_at: Option<OffsetDateTime>,
    attempts: Option<i32>,
    last_error: Option<String>,
    last_attempt_at: Option<OffsetDateTime>,
    dead_letter: Option<i64>,
    reason: Option<String>,
    dead_at: Option<OffsetDateTime>,
    dead_by: Option<String>,
    redrive_at: Option<OffsetDateTime>,
}

/// The records that these groups have of these events: a few index probes for each.
///
/// # Errors
/// Any database error.
pub async fn events(
    connection: &mut PgConnection,
    groups: &[&str],
    events: &[Uuid],
) -> Result<Vec<Received>, sqlx::Error> {
    // The limits make every plan probe once per event; the slot prunes to one partition.
    let rows: Vec<Row> = sqlx::query_as(
        "select asked.id as event_id, groups.name as queue_group,
                seen_at as delivered_at, applied.client_id as applied_by, processed_at as applied_at,
                coalesce(applied.attempts, tried.attempts, dead.attempts) as attempts,
                last_error, last_at as last_attempt_at,
                dead.id as dead_letter, reason, dead_at, dead.client_id as dead_by, redrive_at
         from unnest($1::text[]) as groups (name) cross join unnest($2::uuid[]) as asked (id)
         left join lateral (
             select seen_at, client_id, processed_at, attempts from bus.inbox
             where queue_group = groups.name and event_id = asked.id
               and bus.inbox_slot(event_id) = bus.inbox_slot(asked.id)
             limit 1) as applied on true
         left join lateral (
             select attempts, last_error, last_at from bus.attempts
             where queue_group = groups.name and event_id = asked.id limit 1) as tried on true
         left join lateral (
             select id, reason, dead_at, client_id, attempts, redrive_at from bus.dead_letters
             where queue_group = groups.name and event_id = asked.id limit 1) as dead on true",
    )
    .bind(groups)
    .bind(events)
    .fetch_all(&mut *connection)
    .await?;
    let acts = audit::on_events(connection, events).await?;
    let of = |row: Row| {
        let acts = acts
            .iter()
            .filter(|act| act.event_id == row.event_id && act.queue_group == row.queue_group);
        let acts = acts.map(|done| Act {
            act: done.act.clone(),
            at: done.at,
            operator: done.operator.clone(),
        });
        Received {
            acts: acts.collect(),
            event_id: row.event_id,
            queue_group: row.queue_group,
            delivered_at: row.delivered_at,
            applied_by: row.applied_by,
            applied_at: row.applied_at,
            attempts: row.attempts,
            last_error: row.last_error,
            last_attempt_at: row.last_attempt_at,
            dead_letter: row.dead_letter,
            reason: row.reason,
            dead_at: row.dead_at,
            dead_by: row.dead_by,
            redrive_at: row.redrive_at,
        }
    };
    let known = |received: &Received| {
        received.applied_by.is_some()
            || received.last_attempt_at.is_some()
            || received.dead_letter.is_some()
            || !received.acts.is_empty()
    };
    Ok(rows.into_iter().map(of).filter(known).collect())
}
