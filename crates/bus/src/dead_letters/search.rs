//! Searches dead letters page by page. A search reads a bounded number of rows, newest first, and returns where
//! the next one continues, so its cost does not grow with the table.

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

/// The most dead letters that one search reads.
pub const LOOKED_AT: i64 = 2_000;
/// The most bytes of payloads that one search looks through for a text, unless the first payload alone has more.
pub const SEARCHED_BYTES: i64 = 32 << 20;
/// The most dead letters that [`groups`] counts.
pub const GROUPED: i64 = 10_000;
/// The most groups that [`groups`] returns.
pub const MAX_GROUPS: i64 = 50;

/// Which dead letters: those that satisfy every condition that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Filter {
    /// The group in which they failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_group: Option<String>,
    /// Their NATS subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The common part of their reasons, as in [`ReasonGroup::reason`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// A text in the reason or the payload, or the whole event id, subject or client id. Upper and lower case are
    /// the same, except in the payload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// A dead letter in a list: without payload and headers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Its number in this database.
    pub id: i64,
    /// The group in which it failed.
    pub queue_group: String,
    /// The event's id. If the message is not an event: an id made from its bytes.
    pub event_id: Uuid,
    /// The message's NATS subject.
    pub subject: String,
    /// The stream that it came from.
    pub stream: String,
    /// The sequence of its first copy in that stream.
    pub stream_sequence: i64,
    /// The size of its payload in bytes.
    pub bytes: i64,
    /// How many such messages there were.
    pub copies: i64,
    /// Why it failed, the last time.
    pub reason: String,
    /// How often it was tried on its own.
    pub attempts: i32,
    /// The member that gave up.
    pub client_id: String,
    /// When it became a dead letter, or failed again.
    #[serde(with = "time::serde::rfc3339")]
    pub dead_at: OffsetDateTime,
    /// When it was redriven, while it waits to be retried.
    #[serde(with = "time::serde::rfc3339::option")]
    pub redrive_at: Option<OffsetDateTime>,
}

/// The result of a search.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Found {
    /// The dead letters, newest first.
    pub letters: Vec<Summary>,
    /// How many were looked at.
    pub looked_at: i64,
    /// Where the next search continues; `None` when all were looked at.
    pub next: Option<i64>,
}

/// The condition of a [`Filter`] on the columns of a dead letter: parameters $2 to $5.
macro_rules! fits {
    () => {
        "($2::text is null or queue_group = $2)
         and ($3::text is null or subject = $3)
         and ($4::text is null or bus.reason_pattern(reason) = $4)
         and ($5::text is null or position(lower($5) in lower(reason)) > 0
              or lower($5) = event_id::text or $5 = subject or $5 = client_id
              or position(convert_to($5, 'UTF8') in payload) > 0)"
    };
}
pub(super) use fits;

/// Looks for dead letters older than `before`, at most `limit` of them.
///
/// # Errors
/// Any database error.
pub async fn search(
    connection: &mut PgConnection,
    filter: &Filter,
    before: Option<i64>,
    limit: i64,
) -> Result<Found, sqlx::Error> {
    // The bound of ids is one comparison, so that the index begins there. The sum costs no read of a payload.
    let (looked_at, last): (i64, Option<i64>) = sqlx::query_as(LOOK)
        .bind(before.unwrap_or(i64::MAX))
        .bind(filter.text.is_some())
        .bind(LOOKED_AT)
        .bind(SEARCHED_BYTES)
        .fetch_one(&mut *connection)
        .await?;
    let Some(last) = last else { return Ok(Found { letters: Vec::new(), looked_at, next: None }) };
    let letters: Vec<Summary> = sqlx::query_as(concat!(
        "select id, queue_group, event_id, subject, stream, stream_sequence,
                octet_length(payload)::bigint as bytes, coalesce(copies, 1) as copies, reason, attempts,
                client_id, dead_at, redrive_at
         from bus.dead_letters left join bus.dead_letter_copies on dead_letter = id
         where id >= $1 and id < $6 and ",
        fits!(),
        " order by id desc limit $7"
    ))
    .bind(last)
    .bind(&filter.queue_group)
    .bind(&filter.subject)
    .bind(&filter.reason)
    .bind(&filter.text)
    .bind(before.unwrap_or(i64::MAX))
    .bind(limit)
    .fetch_all(&mut *connection)
    .await?;
    let full = i64::try_from(letters.len()).is_ok_and(|found| found == limit);
    let reached = if full { letters.last().map_or(last, |letter| letter.id) } else { last };
    let more: bool =
        sqlx::query_scalar("select exists (select from bus.dead_letters where id < $1)")
            .bind(reached)
            .fetch_one(connection)
            .await?;
    Ok(Found { letters, looked_at, next: more.then_some(reached) })
}

/// How many dead letters a search reads, and the number of the last one. $2: whether their payloads are searched;
/// $3: [`LOOKED_AT`]; $4: [`SEARCHED_BYTES`].
const LOOK: &str = "
    select count(*), min(id)
    from (select id, sum(bytes) over (order by id desc) - bytes as before
          from (select id, octet_length(payload)::bigint as bytes from bus.dead_letters
                where id < $1 order by id desc limit $3) as newest) as looked_at
    where not $2 or before < $4";

/// Dead letters that have a queue group, a subject and most of their reason in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
pub struct ReasonGroup {
    /// The group in which they failed.
    pub queue_group: String,
    /// Their NATS subject.
    pub subject: String,
    /// Their reason, with `<id>` for UUIDs and `#` for numbers: the first 300 characters.
    pub reason: String,
    /// How many there are.
    pub letters: i64,
    /// How many of them wait to be retried.
    pub redriven: i64,
    /// When the oldest became a dead letter.
    #[serde(with = "time::serde::rfc3339")]
    pub oldest: OffsetDateTime,
    /// When the newest did.
    #[serde(with = "time::serde::rfc3339")]
    pub newest: OffsetDateTime,
    /// The number of the newest.
    pub example: i64,
}

/// The newest dead letters by what they have in common.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Groups {
    /// The largest groups, at most [`MAX_GROUPS`].
    pub groups: Vec<ReasonGroup>,
    /// How many dead letters were counted.
    pub counted: i64,
    /// Whether there are older ones, which were not counted.
    pub more: bool,
}

/// Groups the newest [`GROUPED`] dead letters by queue group, subject and reason.
///
/// # Errors
/// Any database error.
pub async fn groups(connection: &mut PgConnection) -> Result<Groups, sqlx::Error> {
    #[derive(sqlx::FromRow)]
    struct Row {
        #[sqlx(flatten)]
        group: ReasonGroup,
        counted: i64,
    }
    let rows: Vec<Row> = sqlx::query_as(
        "select queue_group, subject, bus.reason_pattern(reason) as reason, count(*) as letters,
                count(redrive_at) as redriven, min(dead_at) as oldest, max(dead_at) as newest,
                max(id) as example, (sum(count(*)) over ())::bigint as counted
         from (select id, queue_group, subject, reason, redrive_at, dead_at from bus.dead_letters
               order by id desc limit $1) as newest
         group by 1, 2, 3 order by letters desc, reason limit $2",
    )
    .bind(GROUPED)
    .bind(MAX_GROUPS)
    .fetch_all(connection)
    .await?;
    let counted = rows.first().map_or(0, |row| row.counted);
    let groups = rows.into_iter().map(|row| row.group).collect();
    Ok(Groups { groups, counted, more: counted >= GROUPED })
}
