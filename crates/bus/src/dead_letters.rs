//! Events that cannot take effect until a person has looked at them: kept to the byte in the
//! group's own database, with the reason. A redrive gives one back to its group, and to no other.

use std::{fmt, str::FromStr};

use serde::Serialize;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{attempts, client_id::ClientId, storable};

/// A dead letter as it is kept.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct DeadLetter {
    /// Its number in this database.
    pub id: i64,
    /// The group in which it failed.
    pub queue_group: String,
    /// The event's id; for what is no event at all, one made from its bytes.
    pub event_id: Uuid,
    /// The NATS subject it came by.
    pub subject: String,
    /// The message's bytes.
    #[serde(serialize_with = "as_text")]
    pub payload: Vec<u8>,
    /// The message's headers, each with its values.
    pub headers: serde_json::Value,
    /// The stream that it came from.
    pub stream: String,
    /// Where it was in that stream.
    pub stream_sequence: i64,
    /// Why it failed, the last time.
    pub reason: String,
    /// How often it was tried by itself.
    pub attempts: i32,
    /// The member that gave up.
    pub client_id: String,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub dead_at: OffsetDateTime,
    /// When it was given back to its group, while it waits for that.
    #[serde(with = "time::serde::rfc3339::option")]
    pub redrive_at: Option<OffsetDateTime>,
}

fn as_text<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(bytes))
}

/// Which dead letters a person means: one by its number, or all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// This one.
    One(i64),
    /// All of them.
    All,
}

impl FromStr for Which {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            number => number
                .parse()
                .map(Self::One)
                .map_err(|_| format!("{text:?} is neither a dead letter's number nor `all`")),
        }
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(id) => write!(f, "{id}"),
            Self::All => f.write_str("all"),
        }
    }
}

impl Which {
    fn id(self) -> Option<i64> {
        match self {
            Self::One(id) => Some(id),
            Self::All => None,
        }
    }
}

/// An event that is about to become a dead letter.
#[derive(Debug)]
pub(crate) struct Dying<'a> {
    pub(crate) event_id: Uuid,
    pub(crate) subject: &'a str,
    pub(crate) payload: &'a [u8],
    pub(crate) headers: serde_json::Value,
    pub(crate) stream: &'a str,
    pub(crate) stream_sequence: i64,
    pub(crate) reason: &'a str,
    pub(crate) attempts: i32,
}

/// Writes dead letters, or the newest reason of those that died again. Their attempts are not
/// counted any more.
pub(crate) async fn bury(
    tx: &mut PgConnection,
    group: &str,
    client_id: &ClientId,
    events: &[Dying<'_>],
) -> Result<(), sqlx::Error> {
    /// One column of all of them.
    fn column<'a, T>(events: &'a [Dying<'a>], of: impl Fn(&'a Dying<'a>) -> T) -> Vec<T> {
        events.iter().map(of).collect()
    }
    let ids = column(events, |event| event.event_id);
    // In the order in which they came. An event may be there twice; a statement can write a row once.
    sqlx::query(
        "insert into bus.dead_letters (queue_group, client_id, event_id, subject, payload, headers,
                                       stream, stream_sequence, reason, attempts)
         select $1, $2, event_id, subject, payload, headers, stream, stream_sequence, reason, attempts
         from (select distinct on (event_id) *
               from unnest($3::uuid[], $4::text[], $5::bytea[], $6::jsonb[], $7::text[], $8::bigint[],
                           $9::text[], $10::integer[]) with ordinality
                   as dying (event_id, subject, payload, headers, stream, stream_sequence, reason,
                             attempts, place)
               order by event_id, place) as once
         order by place
         on conflict (queue_group, event_id) do update
         set reason = excluded.reason, attempts = excluded.attempts,
             client_id = excluded.client_id, dead_at = clock_timestamp(), redrive_at = null",
    )
    .bind(group)
    .bind(client_id.as_str())
    .bind(&ids)
    .bind(column(events, |event| event.subject))
    .bind(column(events, |event| event.payload))
    .bind(column(events, |event| event.headers.clone()))
    .bind(column(events, |event| event.stream))
    .bind(column(events, |event| event.stream_sequence))
    .bind(column(events, |event| storable(event.reason)))
    .bind(column(events, |event| event.attempts))
    .execute(&mut *tx)
    .await?;
    attempts::forget(tx, group, &ids).await
}

/// The reason of a dead letter while a member tries it again. It stays if that ends the process.
pub const INTERRUPTED: &str = "was redriven, and the process ended while it was handled";

/// Takes a dead letter that was given back to the group and makes it an ordinary dead letter
/// again, committed by the caller before the event is tried: should the handler kill the process
/// once more, it is not tried a third time without a person's word.
pub(crate) async fn take_redriven(
    tx: &mut PgConnection,
    group: &str,
) -> Result<Option<DeadLetter>, sqlx::Error> {
    sqlx::query_as(
        "update bus.dead_letters
         set redrive_at = null, attempts = attempts + 1, reason = $2
         where id = (select id from bus.dead_letters
                     where queue_group = $1 and redrive_at <= now()
                     order by redrive_at limit 1 for update skip locked)
         returning *",
    )
    .bind(group)
    .bind(INTERRUPTED)
    .fetch_optional(tx)
    .await
}

/// Notes why a redriven dead letter failed again.
pub(crate) async fn failed_again(
    connection: &mut PgConnection,
    id: i64,
    reason: &str,
    client_id: &ClientId,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update bus.dead_letters
         set reason = $2, client_id = $3, dead_at = clock_timestamp() where id = $1",
    )
    .bind(id)
    .bind(storable(reason))
    .bind(client_id.as_str())
    .execute(connection)
    .await?;
    Ok(())
}

/// A redriven dead letter has taken effect, in this transaction.
pub(crate) async fn resolve(tx: &mut PgConnection, id: i64) -> Result<(), sqlx::Error> {
    sqlx::query("delete from bus.dead_letters where id = $1").bind(id).execute(tx).await?;
    Ok(())
}

/// Lists dead letters, oldest first, at most `limit`.
///
/// # Errors
/// When the database does.
pub async fn list(
    connection: &mut PgConnection,
    group: Option<&str>,
    limit: i64,
) -> Result<Vec<DeadLetter>, sqlx::Error> {
    sqlx::query_as(
        "select * from bus.dead_letters where ($1::text is null or queue_group = $1)
         order by id limit $2",
    )
    .bind(group)
    .bind(limit)
    .fetch_all(connection)
    .await
}

/// One dead letter by its number.
///
/// # Errors
/// When the database does.
pub async fn show(
    connection: &mut PgConnection,
    id: i64,
) -> Result<Option<DeadLetter>, sqlx::Error> {
    sqlx::query_as("select * from bus.dead_letters where id = $1")
        .bind(id)
        .fetch_optional(connection)
        .await
}

/// Gives dead letters back to the group in which they failed. A member tries each within a second
/// or so; what succeeds is no dead letter any more. Returns how many.
///
/// # Errors
/// When the database does.
pub async fn redrive(connection: &mut PgConnection, which: Which) -> Result<u64, sqlx::Error> {
    let redriven = sqlx::query(
        "update bus.dead_letters set redrive_at = clock_timestamp()
         where $1::bigint is null or id = $1",
    )
    .bind(which.id())
    .execute(connection)
    .await?;
    Ok(redriven.rows_affected())
}

/// Deletes dead letters for good. Returns how many.
///
/// # Errors
/// When the database does.
pub async fn discard(connection: &mut PgConnection, which: Which) -> Result<u64, sqlx::Error> {
    let discarded = sqlx::query("delete from bus.dead_letters where $1::bigint is null or id = $1")
        .bind(which.id())
        .execute(connection)
        .await?;
    Ok(discarded.rows_affected())
}

/// The most dead letters that [`count`] counts: it is asked every second.
pub const COUNTED: i64 = 10_000;

/// How many dead letters a group has; [`COUNTED`] means that many or more.
///
/// # Errors
/// When the database does.
pub async fn count(connection: &mut PgConnection, group: &str) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "select count(*) from (select from bus.dead_letters where queue_group = $1 limit $2) as counted",
    )
        .bind(group)
        .bind(COUNTED)
        .fetch_one(connection)
        .await
}
