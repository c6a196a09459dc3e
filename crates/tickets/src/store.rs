//! All SQL of the service. Whoever begins a transaction commits it; everything here receives a
//! connection and never commits.

use std::time::Duration;

use common::events::{money::Price, ticket::Ticket};
use sha2::{Digest, Sha256};
use sqlx::{FromRow, PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::ticket::{ChangedTicket, now};

/// Makes or updates the service's tables. Idempotent, and safe from several processes at once.
///
/// # Errors
/// When the database fails, or was migrated by a newer release.
pub async fn migrate(pool: &PgPool) -> anyhow::Result<()> {
    sqlx::migrate!().run(pool).await?;
    Ok(())
}

/// Stores new tickets.
///
/// # Errors
/// When the database does.
pub async fn insert<'a>(
    tx: &mut PgConnection,
    tickets: impl IntoIterator<Item = &'a Ticket>,
) -> Result<(), sqlx::Error> {
    let mut columns = Columns::default();
    for ticket in tickets {
        columns.ids.push(ticket.id);
        columns.titles.push(&ticket.title);
        columns.prices.push(ticket.price);
        columns.versions.push(ticket.version);
        columns.created.push(ticket.created_at);
        columns.updated.push(ticket.updated_at);
    }
    sqlx::query(
        "insert into tickets (id, title, price, version, created_at, updated_at)
         select * from unnest($1::uuid[], $2::text[], $3::numeric[], $4::integer[],
                              $5::timestamptz[], $6::timestamptz[])",
    )
    .bind(columns.ids)
    .bind(columns.titles)
    .bind(columns.prices)
    .bind(columns.versions)
    .bind(columns.created)
    .bind(columns.updated)
    .execute(tx)
    .await?;
    Ok(())
}

/// Tickets by column, as one statement takes them.
#[derive(Default)]
struct Columns<'a> {
    ids: Vec<Uuid>,
    titles: Vec<&'a str>,
    prices: Vec<Price>,
    versions: Vec<i32>,
    created: Vec<OffsetDateTime>,
    updated: Vec<OffsetDateTime>,
}

/// How a change went.
#[derive(Debug)]
pub enum Change {
    /// The ticket as it is now.
    Made(Ticket),
    /// It is at this version, which is none of those expected.
    Stale(i32),
    /// There is no such ticket.
    NoTicket,
}

/// Replaces a ticket's title and price, if its version is one of `expected` (`None`: whatever it
/// is). Of two changes at the same time, the second waits for the first to commit and then sees
/// its version, so never both win.
///
/// # Errors
/// When the database does.
pub async fn change(
    tx: &mut PgConnection,
    id: Uuid,
    to: &ChangedTicket,
    expected: Option<&[i32]>,
) -> Result<Change, sqlx::Error> {
    // Clocks of replicas differ; a ticket's time never runs backwards all the same.
    let changed: Option<Row> = sqlx::query_as(
        "update tickets set title = $2, price = $3, version = version + 1,
                            updated_at = greatest(updated_at, $4)
         where id = $1 and ($5::integer[] is null or version = any ($5))
         returning id, title, price, version, created_at, updated_at",
    )
    .bind(id)
    .bind(to.title.as_str())
    .bind(to.price)
    .bind(now())
    .bind(expected)
    .fetch_optional(&mut *tx)
    .await?;
    if let Some(row) = changed {
        return Ok(Change::Made(row.into()));
    }
    let version: Option<i32> = sqlx::query_scalar("select version from tickets where id = $1")
        .bind(id)
        .fetch_optional(tx)
        .await?;
    Ok(version.map_or(Change::NoTicket, Change::Stale))
}

/// One ticket.
///
/// # Errors
/// When the database does.
pub async fn find(connection: &mut PgConnection, id: Uuid) -> Result<Option<Ticket>, sqlx::Error> {
    let row: Option<Row> = sqlx::query_as(
        "select id, title, price, version, created_at, updated_at from tickets where id = $1",
    )
    .bind(id)
    .fetch_optional(connection)
    .await?;
    Ok(row.map(Ticket::from))
}

/// At most `limit` tickets, newest first, all older than `after` when it is given.
///
/// # Errors
/// When the database does.
pub async fn page(
    connection: &mut PgConnection,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Ticket>, sqlx::Error> {
    // One plan for both cases, straight from the primary key: no id is as great as the greatest.
    let rows: Vec<Row> = sqlx::query_as(
        "select id, title, price, version, created_at, updated_at from tickets
         where id < $1 order by id desc limit $2",
    )
    .bind(after.unwrap_or(Uuid::max()))
    .bind(limit)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(Ticket::from).collect())
}

/// What is known of an Idempotency-Key when a request comes with it.
#[derive(Debug)]
pub enum Claim {
    /// It is new, and this transaction's until its end.
    Granted,
    /// Another transaction has it now.
    InFlight,
    /// The same request was answered with this.
    Answered {
        /// The ticket that was made.
        ticket_id: Uuid,
        /// The body of the answer.
        answer: String,
    },
    /// It came with another request.
    OtherRequest,
}

/// Claims an Idempotency-Key for this transaction.
///
/// # Errors
/// When the database does.
pub async fn claim_key(
    tx: &mut PgConnection,
    key: &str,
    request_hash: &[u8; 32],
) -> Result<Claim, sqlx::Error> {
    let free: bool = sqlx::query_scalar("select pg_try_advisory_xact_lock($1)")
        .bind(lock_of(key))
        .fetch_one(&mut *tx)
        .await?;
    if !free {
        return Ok(Claim::InFlight);
    }
    // A statement of its own: its snapshot is taken after the lock, so that it sees what the
    // lock's holder before us has committed.
    let known: Option<(Vec<u8>, Uuid, String)> = sqlx::query_as(
        "select request_hash, ticket_id, answer from idempotency_keys where key = $1",
    )
    .bind(key)
    .fetch_optional(tx)
    .await?;
    Ok(match known {
        None => Claim::Granted,
        Some((hash, ticket_id, answer)) if hash == request_hash => {
            Claim::Answered { ticket_id, answer }
        }
        Some(_) => Claim::OtherRequest,
    })
}

/// Keeps what a request with an Idempotency-Key is answered.
///
/// # Errors
/// When the database does.
pub async fn keep_answer(
    tx: &mut PgConnection,
    key: &str,
    request_hash: &[u8; 32],
    ticket_id: Uuid,
    answer: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into idempotency_keys (key, request_hash, ticket_id, answer)
         values ($1, $2, $3, $4)",
    )
    .bind(key)
    .bind(&request_hash[..])
    .bind(ticket_id)
    .bind(answer)
    .execute(tx)
    .await?;
    Ok(())
}

/// Forgets keys older than `retention`, at most `limit` of them. Returns how many.
///
/// # Errors
/// When the database does.
pub async fn prune_keys(
    connection: &mut PgConnection,
    retention: Duration,
    limit: i64,
) -> Result<u64, sqlx::Error> {
    let pruned = sqlx::query(
        "delete from idempotency_keys where key in (
             select key from idempotency_keys where created_at < clock_timestamp() - $1
             order by created_at limit $2 for update skip locked)",
    )
    .bind(retention)
    .bind(limit)
    .execute(connection)
    .await?;
    Ok(pruned.rows_affected())
}

/// The advisory lock of a key. Two keys that share one by chance cost a needless 409, no more.
fn lock_of(key: &str) -> i64 {
    let hash: [u8; 32] = Sha256::digest(format!("idempotency key {key}").as_bytes()).into();
    let [a, b, c, d, e, f, g, h, ..] = hash;
    i64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// A row of `tickets`.
#[derive(FromRow)]
struct Row {
    id: Uuid,
    title: String,
    price: Price,
    version: i32,
    created_at: OffsetDateTime,
    updated_at: OffsetDateTime,
}

impl From<Row> for Ticket {
    fn from(row: Row) -> Self {
        let Row { id, title, price, version, created_at, updated_at } = row;
        Self { id, title, price, version, created_at, updated_at }
    }
}
