//! Events that cannot take effect until an operator looks at them: stored byte for byte in the group's own
//! database, with the reason. A redrive returns one to its group, and to no other.

pub mod acts;
pub mod audit;
pub mod search;

use std::{fmt, str::FromStr};

use serde::Serialize;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{client_id::ClientId, text::shortened};

/// The columns of a [`DeadLetter`], by name: with `*`, a migration that adds one would break the prepared
/// statements of the previous release.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "select id, queue_group, event_id, subject, payload, headers, stream, stream_sequence,
                    coalesce(copies, 1) as copies, reason, attempts, client_id, dead_at,
                    coalesce(last_at, dead_at) as last_at, redrive_at,
                    case when sequences is null then array[stream_sequence::text] else array(
                        select case when upper(range) - lower(range) = 1 then lower(range)::text
                                    else lower(range) || '-' || upper(range) - 1 end
                        from unnest(bus.first_and_last(sequences)) as range) end as sequences
             from bus.dead_letters left join bus.dead_letter_copies on dead_letter = id ",
            $rest
        )
    };
}

/// A stored dead letter.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct DeadLetter {
    /// Its number in this database.
    pub id: i64,
    /// The group in which it failed.
    pub queue_group: String,
    /// The event's id. If the message is not an event, or has another event's id: an id made from its bytes.
    pub event_id: Uuid,
    /// The message's NATS subject.
    pub subject: String,
    /// The message's bytes.
    #[serde(serialize_with = "as_text")]
    pub payload: Vec<u8>,
    /// The message's headers, each with its values.
    pub headers: serde_json::Value,
    /// The stream that it came from.
    pub stream: String,
    /// The sequence of its first copy in that stream.
    pub stream_sequence: i64,
    /// How many such messages there were: the same bytes on the same subject. A redelivery does not count, a
    /// republication does.
    pub copies: i64,
    /// Their sequences in the stream, as numbers and as ranges such as `7-12`: the first 99 and the last.
    pub sequences: Vec<String>,
    /// Why it failed, the last time.
    pub reason: String,
    /// How often it was tried on its own.
    pub attempts: i32,
    /// The member that gave up.
    pub client_id: String,
    /// When it became a dead letter, or failed again.
    #[serde(with = "time::serde::rfc3339")]
    pub dead_at: OffsetDateTime,
    /// When its last copy arrived.
    #[serde(with = "time::serde::rfc3339")]
    pub last_at: OffsetDateTime,
    /// When it was redriven, while it waits to be retried.
    #[serde(with = "time::serde::rfc3339::option")]
    pub redrive_at: Option<OffsetDateTime>,
}

fn as_text<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(bytes))
}

/// Which dead letters to redrive or discard: one, or all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The one with this number.
    One(i64),
    /// All.
    All,
}

/// The text is not a [`Which`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a dead letter's number nor `all`")]
pub struct WhichError(String);

impl FromStr for Which {
    type Err = WhichError;

    fn from_str(text: &str) -> Result<Self, WhichError> {
        match text {
            "all" => Ok(Self::All),
            number => number.parse().map(Self::One).map_err(|_| WhichError(text.to_owned())),
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

/// The reason of a dead letter while a member retries it. It stays if that ends the process.
pub const INTERRUPTED: &str = "was redriven, and the process ended while it was handled";

/// A redriven dead letter.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct Redriven {
    pub(crate) id: i64,
    pub(crate) event_id: Uuid,
    pub(crate) subject: String,
    pub(crate) payload: Vec<u8>,
}

/// Takes a redriven dead letter of the group and makes it an ordinary dead letter again. The caller commits
/// that before it tries the event: if the listener kills the process once more, the event is not tried
/// again until an operator redrives it.
pub(crate) async fn take_redriven(
    tx: &mut PgConnection,
    group: &str,
) -> Result<Option<Redriven>, sqlx::Error> {
    sqlx::query_as(
        "update bus.dead_letters
         set redrive_at = null, attempts = attempts + 1, reason = $2
         where id = (select id from bus.dead_letters
                     where queue_group = $1 and redrive_at <= now()
                     order by redrive_at limit 1 for update skip locked)
         returning id, event_id, subject, payload",
    )
    .bind(group)
    .bind(INTERRUPTED)
    .fetch_optional(tx)
    .await
}

/// Stores why a redriven dead letter failed again.
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
    .bind(shortened(reason))
    .bind(client_id.as_str())
    .execute(connection)
    .await?;
    Ok(())
}

/// Deletes a redriven dead letter that took effect in this transaction. Returns its event, and how often that was
/// tried.
pub(crate) async fn resolve(
    tx: &mut PgConnection,
    id: i64,
) -> Result<Vec<(Uuid, i32)>, sqlx::Error> {
    sqlx::query_as("delete from bus.dead_letters where id = $1 returning event_id, attempts")
        .bind(id)
        .fetch_all(tx)
        .await
}

/// Lists dead letters, oldest first, at most `limit`.
///
/// # Errors
/// Any database error.
pub async fn list(
    connection: &mut PgConnection,
    group: Option<&str>,
    limit: i64,
) -> Result<Vec<DeadLetter>, sqlx::Error> {
    sqlx::query_as(select!("where ($1::text is null or queue_group = $1) order by id limit $2"))
        .bind(group)
        .bind(limit)
        .fetch_all(connection)
        .await
}

/// One dead letter by its number.
///
/// # Errors
/// Any database error.
pub async fn show(
    connection: &mut PgConnection,
    id: i64,
) -> Result<Option<DeadLetter>, sqlx::Error> {
    sqlx::query_as(select!("where id = $1")).bind(id).fetch_optional(connection).await
}

/// Returns dead letters to the group in which they failed. A member retries each within about a second, and
/// deletes those that succeed. Returns how many.
///
/// # Errors
/// Any database error.
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

/// Deletes dead letters permanently. Returns how many.
///
/// # Errors
/// Any database error.
pub async fn discard(connection: &mut PgConnection, which: Which) -> Result<u64, sqlx::Error> {
    let discarded = sqlx::query("delete from bus.dead_letters where $1::bigint is null or id = $1")
        .bind(which.id())
        .execute(connection)
        .await?;
    Ok(discarded.rows_affected())
}

/// The most dead letters that [`count`] counts, because it runs every few seconds.
pub const COUNTED: i64 = 10_000;

/// How many dead letters a group has. Copies count once. [`COUNTED`] means that many or more.
///
/// # Errors
/// Any database error.
pub async fn count(connection: &mut PgConnection, group: &str) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "select count(*) from (select from bus.dead_letters where queue_group = $1 limit $2) as counted",
    )
        .bind(group)
        .bind(COUNTED)
        .fetch_one(connection)
        .await
}
