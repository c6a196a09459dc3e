//! Events that have taken effect here: the guarantee that an effect happens once, however often
//! its event is delivered. The key is the event's id; stream sequences are used again after a
//! stream has lost its tail.
//!
//! A `UUIDv7` tells when it was made, and its time picks one of the ring's partitions. So a check
//! is one index probe, and forgetting is emptying a partition. See `docs/adr/0020`.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use time::OffsetDateTime;
use tracing::{debug, info};
use uuid::{Uuid, Variant};

pub(crate) use crate::claim::id_conflict;
pub use crate::claim::{Claim, Standing, claim, known};
use crate::is_locked;

/// How long an id is remembered at least: from the time that it carries, or, where it carries none,
/// from when its event took effect. Above the longest way that an event can take: published again at
/// the end of the outbox's retention, and kept by the stream for its whole age.
pub const RETENTION: Duration = Duration::from_secs(30 * 24 * 3600);
/// How old an id may be and still be checked. A day below [`RETENTION`], for clocks that disagree.
pub const CHECKABLE: Duration = Duration::from_secs(29 * 24 * 3600);
/// How far ahead of the clock an id may be. Further ahead it may be in a partition that is about to
/// be emptied.
pub const AHEAD: Duration = Duration::from_secs(24 * 3600);
/// The ring, as `bus.inbox_slot` has it: windows of two days in seconds, and how many. Their sum, 36
/// days, leaves each partition two whole days to be emptied in.
const WINDOW: i64 = 2 * 24 * 3600;
const SLOTS: i64 = 18;
/// How long emptying or dropping a table waits for its lock. Writers queue behind it meanwhile. It is
/// tried again a minute later.
const LOCK_TIMEOUT: &str = "set local lock_timeout = '100ms'";

/// Gives up claims of this transaction, for events that could not take effect in it.
///
/// # Errors
/// When the database does.
pub(crate) async fn unclaim(
    tx: &mut PgConnection,
    group: &str,
    events: &[Uuid],
) -> Result<(), sqlx::Error> {
    let mut slots: Vec<i16> = events.iter().map(|id| slot(*id)).collect();
    slots.sort_unstable();
    slots.dedup();
    sqlx::query(
        "delete from bus.inbox where queue_group = $1 and event_id = any($2)
             and bus.inbox_slot(event_id) = any($3)",
    )
    .bind(group)
    .bind(events)
    .bind(slots)
    .execute(tx)
    .await?;
    Ok(())
}

/// Why it cannot be told whether an event took effect, if so: what is that old may be forgotten, and
/// what is from the future would be forgotten too early. It must not take effect without a person's
/// word.
pub(crate) fn uncheckable(id: Uuid, now: OffsetDateTime) -> Option<String> {
    let made = time::Duration::milliseconds(milliseconds(id)?);
    let age = now - OffsetDateTime::UNIX_EPOCH - made;
    if age > CHECKABLE {
        let (age, limit) = (age.whole_days(), CHECKABLE.as_secs() / 86_400);
        Some(format!(
            "its id is {age} days old: after {limit} days it cannot be told whether it took effect"
        ))
    } else if -age > AHEAD {
        Some(format!("its id claims to be made {} hours from now", (-age).whole_hours()))
    } else {
        None
    }
}

/// The time that an id carries, in milliseconds since 1970, if it carries one.
fn milliseconds(id: Uuid) -> Option<i64> {
    let carries = id.get_variant() == Variant::RFC4122 && id.get_version_num() == 7;
    carries.then(|| i64::try_from(id.as_u128() >> 80).unwrap_or(i64::MAX))
}

/// What `bus.inbox_slot` says of an id.
fn slot(id: Uuid) -> i16 {
    let slot = milliseconds(id).map(|milliseconds| milliseconds / 1000 / WINDOW % SLOTS);
    slot.and_then(|slot| i16::try_from(slot).ok()).unwrap_or(-1)
}

/// Forgets ids that carry no time, once their event took effect longer ago than [`RETENTION`]; at
/// most `limit` of them. Returns how many.
///
/// # Errors
/// When the database does.
pub async fn prune(connection: &mut PgConnection, limit: i64) -> Result<u64, sqlx::Error> {
    // `now()` and not the clock: a bound that changes from row to row can use no index. By place, so
    // that no plan reads more of the table than it deletes.
    let pruned = sqlx::query(
        "delete from bus.inbox_other where ctid = any(array(
             select ctid from bus.inbox_other
             where processed_at < now() - $1 order by processed_at limit $2
             for update skip locked))",
    )
    .bind(RETENTION)
    .bind(limit)
    .execute(connection)
    .await?;
    Ok(pruned.rows_affected())
}

/// Empties the partition of the window that ended [`RETENTION`] ago, unless it is empty. Its next
/// window begins in two days or more. Does nothing while the partition is in use; should nobody come
/// to it within its two days, it is emptied a round later, and nothing else depends on it.
///
/// # Errors
/// When the database does.
pub async fn empty_expired(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    // By the clock of the database, which all members share.
    let now: i64 = sqlx::query_scalar("select extract(epoch from now())::bigint")
        .fetch_one(&mut *connection)
        .await?;
    let table = format!("bus.inbox_{}", expired_slot(now));
    let occupied: bool =
        sqlx::query_scalar(AssertSqlSafe(format!("select exists (select from {table})")))
            .fetch_one(&mut *connection)
            .await?;
    if occupied && locked(connection, format!("truncate {table}")).await? {
        info!(table, "forgot the ids of a window that has expired");
    }
    Ok(())
}

/// At `now`, in the window `n`, the ring's oldest window is `n - 16`: it has ended thirty days ago or
/// more. Its partition comes to be used again by the window `n + 2`.
fn expired_slot(now: i64) -> i64 {
    (now / WINDOW + 2) % SLOTS
}

/// Drops the inbox of the release before, once all of it is older than [`RETENTION`].
///
/// # Errors
/// When the database does.
pub async fn drop_table_before(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let there: bool = sqlx::query_scalar("select to_regclass('bus.inbox_before') is not null")
        .fetch_one(&mut *connection)
        .await?;
    if !there {
        return Ok(());
    }
    let expired: bool = sqlx::query_scalar(
        "select coalesce(max(seen_at) < now() - $1, true) from bus.inbox_before",
    )
    .bind(RETENTION)
    .fetch_one(&mut *connection)
    .await?;
    // In the order in which a claim takes them.
    let drop = "lock table bus.inbox in access exclusive mode;
                drop trigger if exists inbox_is_new on bus.inbox;
                drop table if exists bus.inbox_before;
                drop function if exists bus.inbox_is_new";
    if expired && locked(connection, drop.to_owned()).await? {
        info!("dropped the inbox of the release before");
    }
    Ok(())
}

/// Runs statements that need a table for themselves. Returns whether it was to be had.
async fn locked(connection: &mut PgConnection, statements: String) -> Result<bool, sqlx::Error> {
    let mut tx = connection.begin().await?;
    sqlx::raw_sql(LOCK_TIMEOUT).execute(&mut *tx).await?;
    match sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut *tx).await {
        Ok(_) => tx.commit().await.map(|()| true),
        Err(error) if is_locked(&error) => {
            debug!(%error, "tables of the inbox are in use");
            tx.rollback().await.map(|()| false)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_made_at(at: OffsetDateTime) -> Uuid {
        let seconds = u64::try_from(at.unix_timestamp()).unwrap();
        Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, seconds, 0))
    }

    #[test]
    fn a_partition_is_emptied_when_its_ids_cannot_be_checked_and_before_new_ones_may_come() {
        let day = 24 * 3600;
        for hour in 0..40 * 24 {
            let now = 20_000 * day + hour * 3600;
            let slot = expired_slot(now);
            // Whatever may be checked now, or written today, is elsewhere.
            let oldest = now - i64::try_from(CHECKABLE.as_secs()).unwrap();
            let newest = now + i64::try_from(AHEAD.as_secs()).unwrap();
            for at in (oldest..=newest).step_by(3600) {
                assert_ne!(at / WINDOW % SLOTS, slot, "{at} at {now}");
            }
        }
    }

    #[test]
    fn an_id_of_another_version_is_checked_whatever_its_time() {
        let now = OffsetDateTime::now_utc();
        assert_eq!(uncheckable(Uuid::nil(), now), None);
        assert_eq!(uncheckable(Uuid::new_v5(&Uuid::NAMESPACE_OID, b"x"), now), None);
        assert_eq!(uncheckable(id_made_at(now - time::Duration::days(28)), now), None);
        assert_eq!(uncheckable(id_made_at(now + time::Duration::hours(23)), now), None);
        assert!(uncheckable(id_made_at(now - time::Duration::days(30)), now).is_some());
        assert!(uncheckable(id_made_at(now + time::Duration::hours(25)), now).is_some());
    }
}
