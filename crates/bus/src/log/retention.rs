//! Empties expired partitions of the log, and deletes the ranges of their events.

use std::time::Duration;

use sqlx::{Connection, PgConnection};
use time::OffsetDateTime;

use super::page;

/// How many partitions the log has, as in its migration.
const SLOTS: i64 = 9;
/// The time that each covers, in seconds, as in its migration.
const WINDOW: i64 = 2 * 24 * 3600;
/// The largest difference between a row's time and the time that selected its slot, in seconds.
const MARGIN: i64 = 3600;
/// How many ranges one statement deletes.
const PIECE: i64 = 1_000;

/// The slots whose newest window ended longer than `retention` ago and that are not about to be reused. `now`
/// is in seconds since 1970.
fn past(now: i64, retention: Duration) -> Vec<i64> {
    let retention = i64::try_from(retention.as_secs()).unwrap_or(i64::MAX);
    let current = now.div_euclid(WINDOW);
    // The newest window of each slot.
    (current - SLOTS + 1..current)
        .filter(|window| (window + 1) * WINDOW + retention.saturating_add(MARGIN) <= now)
        .filter(|window| now < (window + SLOTS) * WINDOW - MARGIN)
        .map(|window| window.rem_euclid(SLOTS))
        .collect()
}

/// Empties expired partitions and returns their slots. A partition with an unpublished event stays.
///
/// # Errors
/// Any database error, including a lock timeout if another session uses the partition.
pub(crate) async fn empty(
    connection: &mut PgConnection,
    retention: Duration,
    now: OffsetDateTime,
) -> Result<Vec<i64>, sqlx::Error> {
    let mut emptied = Vec::new();
    for slot in past(now.unix_timestamp(), retention) {
        let holds: bool = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
            "select exists (select from bus.log_{slot})"
        )))
        .fetch_one(&mut *connection)
        .await?;
        if holds && truncate(connection, slot).await? {
            emptied.push(slot);
        }
    }
    Ok(emptied)
}

async fn truncate(connection: &mut PgConnection, slot: i64) -> Result<bool, sqlx::Error> {
    let mut tx = connection.begin().await?;
    // While this waits for the lock, others queue behind it: not for long.
    sqlx::query("set local lock_timeout = '100ms'").execute(&mut *tx).await?;
    sqlx::query(sqlx::AssertSqlSafe(format!("lock table bus.log_{slot} in access exclusive mode")))
        .execute(&mut *tx)
        .await?;
    let cursors: Vec<(String, String)> =
        sqlx::query_as("select stream, done::text from bus.progress").fetch_all(&mut *tx).await?;
    for (stream, done) in cursors {
        if page::waits_in(&mut tx, &stream, &done, slot).await? {
            tx.rollback().await?;
            return Ok(false);
        }
    }
    sqlx::query(sqlx::AssertSqlSafe(format!("truncate bus.log_{slot}"))).execute(&mut *tx).await?;
    // A partition that was in use when the index was introduced gets it now, while it is empty.
    sqlx::query(sqlx::AssertSqlSafe(format!(
        "create index if not exists log_{slot}_entity on bus.log_{slot} (entity, position)
         where entity is not null"
    )))
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(true)
}

/// Deletes ranges that ended longer than `retention` ago.
pub(crate) async fn forget_ranges(
    connection: &mut PgConnection,
    retention: Duration,
) -> Result<u64, sqlx::Error> {
    let forgotten = sqlx::query(
        "delete from bus.ranges where number in (
             select number from bus.ranges where ended_at < now() - $1 order by ended_at limit $2)",
    )
    .bind(retention)
    .bind(PIECE)
    .execute(connection)
    .await?;
    Ok(forgotten.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_emptied_after_its_retention_and_before_it_is_used_again() {
        let retention = Duration::from_secs(14 * 24 * 3600);
        let window = 10_000;
        let end = (window + 1) * WINDOW;
        let day = 24 * 3600;
        let slot = window % SLOTS;
        for (now, empties) in [
            (end, false),
            (end + 14 * day, false),
            (end + 14 * day + MARGIN, true),
            (end + 15 * day, true),
            ((window + SLOTS) * WINDOW - MARGIN - 1, true),
            ((window + SLOTS) * WINDOW - MARGIN, false),
            ((window + SLOTS) * WINDOW, false),
        ] {
            assert_eq!(past(now, retention).contains(&slot), empties, "{now}");
        }
    }
}
