//! Moves what the previous release stored in `bus.outbox` to the log, piece by piece, while replicas of that
//! release may still write and publish there.

use sqlx::PgConnection;

/// How many rows one piece moves.
const PIECE: i64 = 512;

/// Moves unpublished events to the end of the log. Returns how many. Skips rows that a relay of the previous
/// release has locked.
pub(crate) async fn unpublished(connection: &mut PgConnection) -> Result<u64, sqlx::Error> {
    let moved = sqlx::query(
        "with moved as (
             delete from bus.outbox where id in (
                 select id from bus.outbox where published_at is null
                 order by position limit $1 for update skip locked)
             returning *)
         insert into bus.log (id, stream, subject, envelope)
         select id, stream, subject, envelope from moved order by position",
    )
    .bind(PIECE)
    .execute(connection)
    .await?;
    Ok(moved.rows_affected())
}

/// Moves the oldest published events to before the start of the log, and their sequences to ranges. Returns how
/// many.
///
/// Their transaction number is 2, which no real transaction has. Every cursor treats them as published.
pub(crate) async fn published(connection: &mut PgConnection) -> Result<u64, sqlx::Error> {
    let moved: i64 = sqlx::query_scalar(
        "with moved as (
             delete from bus.outbox where id in (
                 select id from bus.outbox where published_at is not null
                 order by published_at limit $1 for update skip locked)
             returning *
         ), logged as (
             insert into bus.log (slot, transaction, written_at, id, stream, subject, envelope)
             select bus.log_slot(created_at), '2', created_at, id, stream, subject, envelope
             from moved order by stream, stream_created, stream_sequence
             returning id, position
         ), ranged as (
             insert into bus.ranges (stream, created, first_sequence, last_sequence, last_id, done, target,
                                     from_transaction, from_position, to_transaction, to_position,
                                     events, begun_at, ended_at)
             select stream, stream_created, min(stream_sequence), max(stream_sequence),
                    (array_agg(id order by stream_sequence desc))[1], '1:2:', '3:3:',
                    '2', min(logged.position) - 1, '2', max(logged.position),
                    count(*), min(published_at), max(published_at)
             from moved join logged using (id)
             group by stream, stream_created
         )
         select count(*) from moved",
    )
    .bind(PIECE)
    .fetch_one(connection)
    .await?;
    Ok(moved.unsigned_abs())
}
