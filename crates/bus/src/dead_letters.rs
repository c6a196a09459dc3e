//! Events that cannot take effect until a person has looked at them: kept to the byte in the
//! group's own database, with the reason. A redrive gives one back to its group, and to no other.

use std::{fmt, str::FromStr};

use serde::Serialize;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{client_id::ClientId, shortened};

/// A [`DeadLetter`]'s columns, by name: with `*`, a release that adds one would break the statements
/// that the release before has prepared.
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

/// A dead letter as it is kept.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct DeadLetter {
    /// Its number in this database.
    pub id: i64,
    /// The group in which it failed.
    pub queue_group: String,
    /// The event's id; for what is no event at all, or has the id of another, one made from its bytes.
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
    /// Where it was in that stream, the first time.
    pub stream_sequence: i64,
    /// How many such messages there were: the same bytes by the same subject. One that is delivered
    /// again, and not published again, is counted once.
    pub copies: i64,
    /// Where they were in the stream, as numbers and as ranges such as `7-12`: the first 99, and the
    /// last one.
    pub sequences: Vec<String>,
    /// Why it failed, the last time.
    pub reason: String,
    /// How often it was tried by itself.
    pub attempts: i32,
    /// The member that gave up.
    pub client_id: String,
    /// When, the first time.
    #[serde(with = "time::serde::rfc3339")]
    pub dead_at: OffsetDateTime,
    /// When the last of the copies came.
    #[serde(with = "time::serde::rfc3339")]
    pub last_at: OffsetDateTime,
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

/// The reason of a dead letter while a member tries it again. It stays if that ends the process.
pub const INTERRUPTED: &str = "was redriven, and the process ended while it was handled";

/// A dead letter that was given back.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct Redriven {
    pub(crate) id: i64,
    pub(crate) event_id: Uuid,
    pub(crate) subject: String,
    pub(crate) payload: Vec<u8>,
}

/// Takes a dead letter that was given back to the group and makes it an ordinary dead letter
/// again, committed by the caller before the event is tried: should the handler kill the process
/// once more, it is not tried a third time without a person's word.
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
    .bind(shortened(reason))
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
    sqlx::query_as(select!("where ($1::text is null or queue_group = $1) order by id limit $2"))
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
    sqlx::query_as(select!("where id = $1")).bind(id).fetch_optional(connection).await
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

/// How many dead letters a group has, each with its copies being one: what a person has to look at.
/// [`COUNTED`] means that many or more.
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
