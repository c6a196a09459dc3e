//! The events that have taken effect here. It guarantees that an event takes effect once, however often it is
//! delivered. The key is the event's id, because a stream that loses its end reuses sequences.
//!
//! A `UUIDv7` holds its creation time, which selects a partition of a ring. So a check is one index probe, and
//! pruning empties a partition. See `docs/adr/0020`.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use time::OffsetDateTime;
use tracing::{debug, info};
use uuid::{Uuid, Variant};

pub(crate) use crate::claim::id_conflict;
pub use crate::claim::{Claim, Standing, claim, claim_all_new, known};
use crate::error::is_locked;

/// The shortest time that an id is remembered: from its timestamp or, if it has none, from when its
/// event took effect. More than the longest life of an event, which is twice
/// [`Options::retention`](crate::Options::retention): republished at the end of the outbox's retention, then
/// kept by the stream.
pub const RETENTION: Duration = Duration::from_secs(30 * 24 * 3600);
/// The oldest id that can be checked. A day below [`RETENTION`], in case clocks differ.
pub const CHECKABLE: Duration = Duration::from_secs(29 * 24 * 3600);
/// How far in the future an id may be. Further ahead, its partition may be about to be emptied.
pub const MAX_AHEAD: Duration = Duration::from_secs(24 * 3600);
/// The length of a partition's window, in seconds, as in the SQL function `bus.inbox_slot`.
const WINDOW: i64 = 2 * 24 * 3600;
/// How many partitions there are. Their 36 days leave two whole days to empty each of them.
const SLOTS: i64 = 18;
/// How long emptying or dropping a table waits for its lock, while writers queue behind it. It is retried a
/// minute later.
const LOCK_TIMEOUT: &str = "set local lock_timeout = '100ms'";

/// Removes claims of this transaction, for events that did not take effect in it.
pub(crate) async fn unclaim(
    tx: &mut PgConnection,
    group: &str,
    events: &[Uuid],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "delete from bus.inbox where queue_group = $1 and event_id = any($2)
             and bus.inbox_slot(event_id) = any($3)",
    )
    .bind(group)
    .bind(events)
    .bind(slots(events))
    .execute(tx)
    .await?;
    Ok(())
}

/// Records how often events that take effect in this transaction were tried on their own, for display. Events
/// that take effect at once cost nothing.
pub(crate) async fn note_attempts(
    tx: &mut PgConnection,
    group: &str,
    attempts: &[(Uuid, i32)],
) -> Result<(), sqlx::Error> {
    if attempts.is_empty() {
        return Ok(());
    }
    let (events, attempts): (Vec<Uuid>, Vec<i32>) = attempts.iter().copied().unzip();
    let slots = slots(&events);
    sqlx::query(
        "update bus.inbox set attempts = tried.attempts
         from unnest($2::uuid[], $3::integer[]) as tried (id, attempts)
         where queue_group = $1 and event_id = tried.id and event_id = any($2)
           and bus.inbox_slot(event_id) = any($4)",
    )
    .bind(group)
    .bind(events)
    .bind(attempts)
    .bind(slots)
    .execute(tx)
    .await?;
    Ok(())
}

/// Why the inbox cannot tell whether an event took effect, if it cannot: an id that old may be pruned, and
/// one from the future would be pruned too early. Such an event must not take effect unless an operator
/// redrives it.
pub(crate) fn uncheckable(id: Uuid, now: OffsetDateTime) -> Option<String> {
    let made = time::Duration::milliseconds(milliseconds(id)?);
    let age = now - OffsetDateTime::UNIX_EPOCH - made;
    if age > CHECKABLE {
        let (age, limit) = (age.whole_days(), CHECKABLE.as_secs() / 86_400);
        Some(format!(
            "its id is {age} days old: after {limit} days nothing records whether it took effect"
        ))
    } else if -age > MAX_AHEAD {
        Some(format!("its id is dated {} hours from now", (-age).whole_hours()))
    } else {
        None
    }
}

/// An id's timestamp, in milliseconds since 1970, if it has one.
fn milliseconds(id: Uuid) -> Option<i64> {
    let carries = id.get_variant() == Variant::RFC4122 && id.get_version_num() == 7;
    carries.then(|| i64::try_from(id.as_u128() >> 80).unwrap_or(i64::MAX))
}

/// The result of the SQL function `bus.inbox_slot` for an id.
fn slot(id: Uuid) -> i16 {
    let slot = milliseconds(id).map(|milliseconds| milliseconds / 1000 / WINDOW % SLOTS);
    slot.and_then(|slot| i16::try_from(slot).ok()).unwrap_or(-1)
}

/// The partitions of these ids, each once: a statement that names them reads no others.
fn slots(ids: &[Uuid]) -> Vec<i16> {
    let mut slots: Vec<i16> = ids.iter().map(|id| slot(*id)).collect();
    slots.sort_unstable();
    slots.dedup();
    slots
}

/// Prunes ids without a timestamp, [`RETENTION`] after their event took effect, at most `limit` of them.
/// Returns how many.
///
/// # Errors
/// Any database error.
pub async fn prune(connection: &mut PgConnection, limit: i64) -> Result<u64, sqlx::Error> {
    // `now()`, not `clock_timestamp()`: a bound that changes from row to row cannot use the index. By
    // `ctid`, so that no plan reads more rows than it deletes.
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

/// Empties the partition of the window that ended [`RETENTION`] ago, unless it is empty. Its next window
/// starts in two days or more. Does nothing while the partition is in use. If that lasts for the whole two
/// days, the partition is emptied one turn of the ring later, which harms nothing.
///
/// # Errors
/// Any database error.
pub async fn empty_expired(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    // The clock of the database, which all members share.
    let now: i64 = sqlx::query_scalar("select extract(epoch from now())::bigint")
        .fetch_one(&mut *connection)
        .await?;
    let table = format!("bus.inbox_{}", expired_slot(now));
    let occupied: bool =
        sqlx::query_scalar(AssertSqlSafe(format!("select exists (select from {table})")))
            .fetch_one(&mut *connection)
            .await?;
    if occupied && locked(connection, format!("truncate {table}")).await? {
        info!(table, "pruned the ids of an expired window");
    }
    Ok(())
}

/// At `now`, in window `n`, the oldest window of the ring is `n - 16`, which ended at least thirty days ago.
/// Window `n + 2` will reuse its partition.
fn expired_slot(now: i64) -> i64 {
    (now / WINDOW + 2) % SLOTS
}

/// Drops the inbox table of the previous release, once all of its rows are older than [`RETENTION`].
///
/// # Errors
/// Any database error.
pub async fn drop_previous_table(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
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
    // Locks in the same order as a claim.
    let drop = "lock table bus.inbox in access exclusive mode;
                drop trigger if exists inbox_is_new on bus.inbox;
                drop table if exists bus.inbox_before;
                drop function if exists bus.inbox_is_new";
    if expired && locked(connection, drop.to_owned()).await? {
        info!("dropped the inbox table of the previous release");
    }
    Ok(())
}

/// Runs statements that lock a table exclusively. Returns whether the lock was granted.
async fn locked(connection: &mut PgConnection, statements: String) -> Result<bool, sqlx::Error> {
    let mut tx = connection.begin().await?;
    sqlx::raw_sql(LOCK_TIMEOUT).execute(&mut *tx).await?;
    match sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut *tx).await {
        Ok(_) => tx.commit().await.map(|()| true),
        Err(error) if is_locked(&error) => {
            debug!(%error, "the inbox table is in use, retrying later");
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
    fn a_partition_is_emptied_after_its_ids_expire_and_before_it_is_reused() {
        let day = 24 * 3600;
        for hour in 0..40 * 24 {
            let now = 20_000 * day + hour * 3600;
            let slot = expired_slot(now);
            // Ids that can be checked now, or stored today, are in other partitions.
            let oldest = now - i64::try_from(CHECKABLE.as_secs()).unwrap();
            let newest = now + i64::try_from(MAX_AHEAD.as_secs()).unwrap();
            for at in (oldest..=newest).step_by(3600) {
                assert_ne!(at / WINDOW % SLOTS, slot, "{at} at {now}");
            }
        }
    }

    #[test]
    fn an_id_of_another_uuid_version_is_always_checkable() {
        let now = OffsetDateTime::now_utc();
        assert_eq!(uncheckable(Uuid::nil(), now), None);
        assert_eq!(uncheckable(Uuid::new_v5(&Uuid::NAMESPACE_OID, b"x"), now), None);
        assert_eq!(uncheckable(id_made_at(now - time::Duration::days(28)), now), None);
        assert_eq!(uncheckable(id_made_at(now + time::Duration::hours(23)), now), None);
        assert!(uncheckable(id_made_at(now - time::Duration::days(30)), now).is_some());
        assert!(uncheckable(id_made_at(now + time::Duration::hours(25)), now).is_some());
    }
}
