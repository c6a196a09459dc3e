//! Reads the log in pages.

use sqlx::{PgConnection, Row, postgres::PgRow};
use uuid::Uuid;

use super::place::Place;

/// How many events a page holds: one atomic batch. The server's limit is 1,000. Half of that costs one
/// percent more time and halves the relay's memory.
pub(crate) const PAGE: usize = 512;

/// An event to be published.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    pub(crate) id: Uuid,
    pub(crate) subject: String,
    pub(crate) envelope: String,
}

/// A page of events, in log order.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) events: Vec<Outgoing>,
    /// The place of the last row read.
    pub(crate) end: Option<Place>,
    /// Whether there may be more.
    pub(crate) full: bool,
    /// The snapshot in which they are visible.
    pub(crate) target: String,
}

/// A part of the log: the rows visible in `target` (or now) and not in `done`, after one place and up to
/// another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part<'a> {
    pub(crate) stream: &'a str,
    pub(crate) done: &'a str,
    pub(crate) target: Option<&'a str>,
    pub(crate) after: Place,
    pub(crate) up_to: Place,
}

/// Transactions not visible in a snapshot are those in progress then, one index probe each, and those that began
/// later, one index range. So a page costs the same however large the log, and however long a transaction
/// elsewhere stays open.
///
/// Each bound is a single row comparison: with two, the index scan would start at the wrong one.
const PAGE_SQL: &str = "
with step as materialized (
    select target, low.*, high.*
    from (select coalesce($2::pg_snapshot, pg_current_snapshot()) as target,
                 $3::pg_snapshot as done) as snapshots,
         lateral (select greatest($4::text::xid8, pg_snapshot_xmax(done)) as low_transaction,
                         case when $4::text::xid8 >= pg_snapshot_xmax(done) then $5 else 0 end
                             as low_position) as low,
         lateral (select least($6::text::xid8, pg_snapshot_xmax(target)) as high_transaction,
                         case when $6::text::xid8 < pg_snapshot_xmax(target) then $7 else 0 end
                             as high_position) as high
)
select step.target::text, page.transaction::text::bigint, page.position, page.id, page.subject,
       page.envelope
from step left join lateral (
    (select transaction, position, id, subject, envelope from bus.log
     where stream = $1 and transaction = any (array(select pg_snapshot_xip($3::pg_snapshot)))
       and (transaction, position) > ($4::text::xid8, $5)
       and (transaction, position) <= ($6::text::xid8, $7)
       and pg_visible_in_snapshot(transaction, step.target)
     order by transaction, position limit 512)
    union all
    (select transaction, position, id, subject, envelope from bus.log
     where stream = $1
       and (transaction, position) > (step.low_transaction, step.low_position)
       and (transaction, position) <= (step.high_transaction, step.high_position)
       and pg_visible_in_snapshot(transaction, step.target)
     order by transaction, position limit 512)
    order by transaction, position limit 512
) as page on true";

// If the statement's limit were smaller, a full page would be mistaken for the last one.
const _: () = assert!(PAGE == 512);

/// Reads the next page of a part of the log.
pub(crate) async fn read(
    connection: &mut PgConnection,
    part: Part<'_>,
) -> Result<Page, sqlx::Error> {
    let rows = sqlx::query(PAGE_SQL)
        .bind(part.stream)
        .bind(part.target)
        .bind(part.done)
        .bind(part.after.transaction.to_string())
        .bind(part.after.position)
        .bind(part.up_to.transaction.to_string())
        .bind(part.up_to.position)
        .fetch_all(connection)
        .await?;
    let target = rows.first().ok_or(sqlx::Error::RowNotFound)?.try_get("target")?;
    let (mut events, mut end) = (Vec::with_capacity(rows.len()), None);
    for row in &rows {
        // Without any event there is one row without a place.
        let Some(place) = place(row)? else { break };
        events.push(outgoing(row)?);
        end = Some(place);
    }
    Ok(Page { full: events.len() >= PAGE, events, end, target })
}

/// How many rows a page of [`read_restored`] reads. Most are skipped.
const LOOK_AT: usize = 2_000;
// As in the statement.
const _: () = assert!(LOOK_AT == 2000);

/// Reads the next page of what a restored database may not have published: every row written after `since`,
/// and those not visible in `done`. Whether a row's transaction number is of the old cluster or of the new
/// one is unknown, so the time decides.
pub(crate) async fn read_restored(
    connection: &mut PgConnection,
    part: Part<'_>,
    since: time::OffsetDateTime,
) -> Result<Page, sqlx::Error> {
    let rows = sqlx::query(
        "select transaction::text::bigint, position, id, subject,
                case when written_at > $4 or not pg_visible_in_snapshot(transaction, $5::pg_snapshot)
                     then envelope end as envelope
         from (select * from bus.log
               where stream = $1 and (transaction, position) > ($2::text::xid8, $3)
               order by transaction, position limit 2000) as looked_at
         order by transaction, position",
    )
    .bind(part.stream)
    .bind(part.after.transaction.to_string())
    .bind(part.after.position)
    .bind(since)
    .bind(part.done)
    .fetch_all(connection)
    .await?;
    let end = rows.last().map(place).transpose()?.flatten();
    let mut events = Vec::new();
    for row in &rows {
        if row.try_get::<Option<&str>, _>("envelope")?.is_some() {
            events.push(outgoing(row)?);
        }
    }
    Ok(Page { full: rows.len() >= LOOK_AT, events, end, target: part.done.to_owned() })
}

/// How many waiting events are counted exactly. Above, their number is an estimate.
pub(crate) const COUNTED: i64 = 10_000;

/// Events that wait to be published.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiting {
    pub(crate) events: i64,
    pub(crate) oldest_seconds: f64,
}

/// The events not visible in `done`, or after a place of the current step.
pub(crate) async fn waiting(
    connection: &mut PgConnection,
    stream: &str,
    done: &str,
    after: Place,
) -> Result<Waiting, sqlx::Error> {
    let (counted, oldest_seconds, beyond): (i64, f64, i64) = sqlx::query_as(
        "with waiting as (
             (select written_at, position from bus.log
              where stream = $1 and transaction = any (array(select pg_snapshot_xip($2::pg_snapshot)))
                and (transaction, position) > ($3::text::xid8, $4)
              order by transaction, position limit 10001)
             union all
             (select written_at, position from bus.log
              where stream = $1
                and (transaction, position) >
                    (greatest($3::text::xid8, pg_snapshot_xmax($2::pg_snapshot)),
                     case when $3::text::xid8 >= pg_snapshot_xmax($2::pg_snapshot) then $4 else 0 end)
                and transaction < pg_snapshot_xmax(pg_current_snapshot())
              order by transaction, position limit 10001))
         select count(*),
                coalesce(extract(epoch from clock_timestamp() - min(written_at)), 0)::float8,
                coalesce((select last_value from bus.log_position_seq) - min(position) + 1, 0)
         from waiting",
    )
    .bind(stream)
    .bind(done)
    .bind(after.transaction.to_string())
    .bind(after.position)
    .fetch_one(connection)
    .await?;
    let events = if counted > COUNTED { beyond.max(counted) } else { counted };
    Ok(Waiting { events, oldest_seconds: oldest_seconds.max(0.0) })
}

/// Whether a partition holds a row not visible in `done`.
pub(crate) async fn waits_in(
    connection: &mut PgConnection,
    stream: &str,
    done: &str,
    slot: i64,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
        "select exists (select from bus.log_{slot} where stream = $1
                         and transaction = any (array(select pg_snapshot_xip($2::pg_snapshot))))
             or exists (select from bus.log_{slot} where stream = $1
                         and transaction >= pg_snapshot_xmax($2::pg_snapshot))"
    )))
    .bind(stream)
    .bind(done)
    .fetch_one(connection)
    .await
}

fn place(row: &PgRow) -> Result<Option<Place>, sqlx::Error> {
    let Some(position) = row.try_get("position")? else { return Ok(None) };
    Ok(Some(Place { transaction: row.try_get("transaction")?, position }))
}

fn outgoing(row: &PgRow) -> Result<Outgoing, sqlx::Error> {
    Ok(Outgoing {
        id: row.try_get("id")?,
        subject: row.try_get("subject")?,
        envelope: row.try_get("envelope")?,
    })
}
