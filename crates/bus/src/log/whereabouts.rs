//! Where an event of the log is: it waits, or a stream has it, as far as the cursor and the ranges tell. A lookup
//! reads a bounded number of ranges and of index entries.

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::entity::Logged;

/// How many places of a range are counted to tell an event's sequence.
const COUNTED: i64 = 20_000;

/// Where an event is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Whereabouts {
    /// It waits to be published.
    Waiting,
    /// Its stream lost it, and it waits to be republished.
    Lost,
    /// Its stream confirmed it, as one of this range.
    Published(Range),
    /// It was published, and nothing more is known: its range was deleted, or is not among those looked at.
    Unknown,
}

/// Part of a stream that holds an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) first_sequence: i64,
    pub(crate) last_sequence: i64,
    pub(crate) begun_at: OffsetDateTime,
    pub(crate) ended_at: OffsetDateTime,
    /// Where it must be if nobody else publishes to the stream.
    pub(crate) expected: Option<i64>,
}

#[derive(Debug, sqlx::FromRow)]
struct Row {
    number: i64,
    first_sequence: i64,
    last_sequence: i64,
    begun_at: OffsetDateTime,
    ended_at: OffsetDateTime,
    lost: bool,
}

/// Where an event is now.
pub(crate) async fn of(
    connection: &mut PgConnection,
    event: &Logged,
) -> Result<Whereabouts, sqlx::Error> {
    let (transaction, position) = (event.transaction.to_string(), event.position);
    let published: Option<bool> = sqlx::query_scalar(
        "select $2::text::xid8 < pg_snapshot_xmax(pg_current_snapshot())
                and (pg_visible_in_snapshot($2::text::xid8, done)
                     or target is not null and pg_visible_in_snapshot($2::text::xid8, target)
                        and ($2::text::xid8, $3) <= (at_transaction, at_position))
         from bus.progress where stream = $1",
    )
    .bind(&event.stream)
    .bind(&transaction)
    .bind(position)
    .fetch_optional(&mut *connection)
    .await?
    .flatten();
    if published != Some(true) {
        return Ok(Whereabouts::Waiting);
    }
    // Its first publication is among the first ranges that ended after it was written; a republication among the
    // newest.
    let row: Option<Row> = sqlx::query_as(
        "select number, first_sequence, last_sequence, begun_at, ended_at, lost
         from ((select number, stream, first_sequence, last_sequence, begun_at, ended_at, lost, restored_after,
                       done, target, from_transaction, from_position, to_transaction, to_position
                from bus.ranges where ended_at >= $4 order by ended_at limit 2000)
               union all
               (select number, stream, first_sequence, last_sequence, begun_at, ended_at, lost, restored_after,
                       done, target, from_transaction, from_position, to_transaction, to_position
                from bus.ranges where ended_at >= $4 order by ended_at desc limit 2000)) as range
         where stream = $1 and restored_after is null
           and pg_visible_in_snapshot($2::text::xid8, target)
           and not pg_visible_in_snapshot($2::text::xid8, done)
           and ($2::text::xid8, $3) > (from_transaction, from_position)
           and ($2::text::xid8, $3) <= (to_transaction, to_position)
         order by number desc limit 1",
    )
    .bind(&event.stream)
    .bind(&transaction)
    .bind(position)
    .bind(event.written_at)
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = row else { return Ok(Whereabouts::Unknown) };
    if row.lost {
        return Ok(Whereabouts::Lost);
    }
    let before = before_in_range(connection, row.number, event).await?;
    let expected = row.first_sequence + before;
    Ok(Whereabouts::Published(Range {
        first_sequence: row.first_sequence,
        last_sequence: row.last_sequence,
        begun_at: row.begun_at,
        ended_at: row.ended_at,
        expected: (before < COUNTED && expected <= row.last_sequence).then_some(expected),
    }))
}

/// How many events of a range were written before this one: at most [`COUNTED`].
async fn before_in_range(
    connection: &mut PgConnection,
    range: i64,
    event: &Logged,
) -> Result<i64, sqlx::Error> {
    // One bound on each side, as a single row comparison: the index begins there.
    sqlx::query_scalar(
        "select count(*) from (
             select from bus.log, bus.ranges as range
             where number = $1 and log.stream = $2
               and (log.transaction, log.position) >
                   (greatest(from_transaction, pg_snapshot_xmin(done)),
                    case when from_transaction >= pg_snapshot_xmin(done) then from_position else 0 end)
               and (log.transaction, log.position) < ($3::text::xid8, $4)
               and pg_visible_in_snapshot(log.transaction, target)
               and not pg_visible_in_snapshot(log.transaction, done)
             limit $5) as before",
    )
    .bind(range)
    .bind(&event.stream)
    .bind(event.transaction.to_string())
    .bind(event.position)
    .bind(COUNTED)
    .fetch_one(connection)
    .await
}
