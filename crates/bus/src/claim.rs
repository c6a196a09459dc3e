//! Claims events in the inbox. An id belongs to one event, compared byte by byte: a repeated event is a duplicate, and
//! an event that reuses another's id is a conflict. See `docs/adr/0032`.

use std::collections::HashMap;

use sha2::{Digest as _, Sha256};
use sqlx::PgConnection;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use crate::client_id::ClientId;

/// An event as the inbox knows it: its id, and a digest that tells it from others with that id.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    /// The event's id.
    pub id: Uuid,
    /// The first 16 bytes of the SHA-256 of the event's bytes.
    pub digest: [u8; 16],
    /// When NATS delivered it to this member, by this member's clock. `None` for a redriven dead letter, which
    /// comes from the database.
    pub delivered_at: Option<OffsetDateTime>,
}

impl Claim {
    /// The claim of an event with these bytes, not delivered by NATS.
    #[must_use]
    pub fn new(id: Uuid, bytes: &[u8]) -> Self {
        let mut digest = [0; 16];
        digest.copy_from_slice(&Sha256::digest(bytes)[..16]);
        Self { id, digest, delivered_at: None }
    }
}

/// The state of an event in the inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It has not taken effect. If it was claimed, this transaction has it now.
    New,
    /// The event at this place of the same list is new and has the same id.
    Twin(usize),
    /// It took effect before.
    Known,
    /// Another event with its id took effect, so this one never can. With the reason.
    IdConflict(String),
}

/// Claims events for this transaction and returns the standing of each. Waits for other transactions that
/// are claiming one of them.
///
/// # Errors
/// Any database error.
pub async fn claim(
    tx: &mut PgConnection,
    group: &str,
    client: &ClientId,
    events: &[Claim],
) -> Result<Vec<Standing>, sqlx::Error> {
    // Ordered by id, so that two members with the same events wait for one another instead of
    // deadlocking. Of two events with one id, the first.
    let new: Vec<Uuid> = sqlx::query_scalar(
        "insert into bus.inbox (queue_group, event_id, client_id, digest, seen_at)
         select $1, event_id, $2, digest, seen_at
         from unnest($3::uuid[], $4::bytea[], $5::timestamptz[])
              with ordinality as claimed (event_id, digest, seen_at, place)
         order by event_id, place
         on conflict do nothing
         returning event_id",
    )
    .bind(group)
    .bind(client.as_str())
    .bind(events.iter().map(|event| event.id).collect::<Vec<_>>())
    .bind(events.iter().map(|event| &event.digest[..]).collect::<Vec<_>>())
    .bind(events.iter().map(|event| event.delivered_at).collect::<Vec<_>>())
    .fetch_all(&mut *tx)
    .await?;
    let mut new: HashMap<Uuid, Option<usize>> = new.into_iter().map(|id| (id, None)).collect();
    let mut standings = vec![Standing::Known; events.len()];
    let mut others = Vec::new();
    for (at, event) in events.iter().enumerate() {
        match new.get_mut(&event.id) {
            Some(Some(first)) => standings[at] = Standing::Twin(*first),
            Some(first) => {
                *first = Some(at);
                standings[at] = Standing::New;
            }
            None => others.push(at),
        }
    }
    if !others.is_empty() {
        let asked: Vec<Claim> = others.iter().map(|at| events[*at]).collect();
        for (at, found) in others.into_iter().zip(known(tx, group, &asked).await?) {
            // The inbox table of the previous release has it, without a digest to compare.
            standings[at] = if found == Standing::New { Standing::Known } else { found };
        }
    }
    Ok(standings)
}

/// Claims events for this transaction that are expected to be new. Returns whether all of them were; if not,
/// the transaction must be rolled back. Costs Postgres two thirds as much as [`claim`], which must handle conflicts.
/// Waits for other transactions that are claiming one of them.
///
/// # Errors
/// Any other database error.
pub async fn claim_all_new(
    tx: &mut PgConnection,
    group: &str,
    client: &ClientId,
    events: &[Claim],
) -> Result<bool, sqlx::Error> {
    // In the order of `claim`, for the same reason.
    let claimed = sqlx::query(
        "insert into bus.inbox (queue_group, event_id, client_id, digest, seen_at)
         select $1, event_id, $2, digest, seen_at
         from unnest($3::uuid[], $4::bytea[], $5::timestamptz[]) as claimed (event_id, digest, seen_at)
         order by event_id",
    )
    .bind(group)
    .bind(client.as_str())
    .bind(events.iter().map(|event| event.id).collect::<Vec<_>>())
    .bind(events.iter().map(|event| &event.digest[..]).collect::<Vec<_>>())
    .bind(events.iter().map(|event| event.delivered_at).collect::<Vec<_>>())
    .execute(tx)
    .await;
    match claimed {
        // Fewer if the inbox table of the previous release has some.
        Ok(claimed) => Ok(claimed.rows_affected() == events.len() as u64),
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(false),
        Err(error) => Err(error),
    }
}

/// The standing of each event, by one index probe each.
///
/// # Errors
/// Any database error.
pub async fn known(
    connection: &mut PgConnection,
    group: &str,
    events: &[Claim],
) -> Result<Vec<Standing>, sqlx::Error> {
    // The limit makes every plan probe once per event; the slot prunes to one partition.
    let found: Vec<(i64, Option<Vec<u8>>, OffsetDateTime)> = sqlx::query_as(
        "select place, digest, processed_at
         from unnest($2::uuid[]) with ordinality as asked (id, place)
         cross join lateral (
             select digest, processed_at from bus.inbox
             where queue_group = $1 and event_id = asked.id
               and bus.inbox_slot(event_id) = bus.inbox_slot(asked.id)
             limit 1) as found",
    )
    .bind(group)
    .bind(events.iter().map(|event| event.id).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    let mut standings = vec![Standing::New; events.len()];
    for (place, digest, at) in found {
        let at_place = usize::try_from(place - 1).unwrap_or_default();
        // Replicas of the previous release claim without a digest.
        let same = digest.is_none_or(|digest| digest == events[at_place].digest);
        standings[at_place] =
            if same { Standing::Known } else { Standing::IdConflict(id_conflict(Some(at))) };
    }
    Ok(standings)
}

/// Why an event with another event's id can never take effect.
pub(crate) fn id_conflict(at: Option<OffsetDateTime>) -> String {
    let at = at.and_then(|at| at.format(&Rfc3339).ok());
    let when = at.map_or_else(|| "just now".to_owned(), |at| format!("at {at}"));
    format!("another event with the same id but other bytes took effect {when}")
}
