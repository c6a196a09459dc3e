//! Finds the events of an entity in the log. One index probe for each partition, whatever the size of the log.

use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, PgConnection};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::envelope::Envelope;

/// The key of an entity's events. For a `UUIDv7`, its first 8 bytes, which begin with its time: the index
/// grows at its end, as cheaply as an index can. For any other id, a hash below 0. Two entities may share it.
pub(crate) fn key(entity: &str) -> i64 {
    match Uuid::try_parse(entity) {
        Ok(id) if id.get_version_num() == 7 => i64::try_from(id.as_u128() >> 64).unwrap_or(0),
        _ => {
            let hash: [u8; 32] = Sha256::digest(entity.as_bytes()).into();
            let [a, b, c, d, e, f, g, h, ..] = hash;
            i64::from_be_bytes([a, b, c, d, e, f, g, h]) | i64::MIN
        }
    }
}

/// A row of the log.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct Logged {
    pub(crate) id: Uuid,
    pub(crate) stream: String,
    pub(crate) subject: String,
    pub(crate) envelope: String,
    pub(crate) written_at: OffsetDateTime,
    pub(crate) transaction: i64,
    pub(crate) position: i64,
}

/// Events of one entity.
#[derive(Debug)]
pub(crate) struct Found {
    /// In the order of their positions.
    pub(crate) events: Vec<Logged>,
    /// The position after which there may be more.
    pub(crate) next: Option<i64>,
    /// Whether every event of this release was found: no partition without an index may hold one.
    pub(crate) complete: bool,
}

/// The events of an entity after a position, at most `limit`.
pub(crate) async fn events(
    connection: &mut PgConnection,
    entity: &str,
    after: i64,
    limit: usize,
) -> Result<Found, sqlx::Error> {
    let indexed: Vec<i32> = sqlx::query_scalar(
        "select substring(relname from 5 for 1)::integer from pg_class
         where relnamespace = 'bus'::regnamespace and relkind = 'i' and relname ~ '^log_[0-8]_entity$'
         order by 1",
    )
    .fetch_all(&mut *connection)
    .await?;
    let complete = !hides_events(connection, entity, &indexed).await?;
    if indexed.is_empty() {
        return Ok(Found { events: Vec::new(), next: None, complete });
    }
    // Query partitions by name: one without the index would be scanned.
    let parts: Vec<String> = indexed
        .iter()
        .map(|slot| {
            format!(
                "(select id, stream, subject, envelope, written_at, transaction, position from bus.log_{slot}
                  where entity = $1 and position > $2 order by position limit $3)"
            )
        })
        .collect();
    let sql = format!(
        "select id, stream, subject, envelope, written_at, transaction::text::bigint as transaction, position
         from ({}) as events order by position limit $3",
        parts.join(" union all ")
    );
    let mut events: Vec<Logged> = sqlx::query_as(AssertSqlSafe(sql))
        .bind(key(entity))
        .bind(after)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(connection)
        .await?;
    let next = events.last().filter(|_| events.len() >= limit).map(|last| last.position);
    // Another entity may have the same key.
    events.retain(|event| {
        let envelope = Envelope::parse(event.envelope.as_bytes());
        envelope.is_ok_and(|envelope| envelope.subject == entity)
    });
    Ok(Found { events, next, complete })
}

/// Whether a partition without an index may hold events of an entity: it has rows, and its window had not ended
/// when the entity was made.
async fn hides_events(
    connection: &mut PgConnection,
    entity: &str,
    indexed: &[i32],
) -> Result<bool, sqlx::Error> {
    // With a day for clocks that differ. The ring's nine windows of two days reach back 16 days at least.
    let slots: Vec<i32> = sqlx::query_scalar(
        "select distinct bus.log_slot(at)::integer
         from generate_series(greatest(now() - interval '16 days', $1 - interval '1 day'), now(), '1 day')
              as made_since (at)
         union select bus.log_slot(now())::integer",
    )
    .bind(made_at(entity))
    .fetch_all(&mut *connection)
    .await?;
    for slot in slots.iter().filter(|slot| !indexed.contains(slot)) {
        let rows = AssertSqlSafe(format!("select exists (select from bus.log_{slot})"));
        if sqlx::query_scalar(rows).fetch_one(&mut *connection).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// When an entity was created, if its id holds that.
fn made_at(entity: &str) -> Option<OffsetDateTime> {
    let id = Uuid::try_parse(entity).ok().filter(|id| id.get_version_num() == 7)?;
    let (seconds, _) = id.get_timestamp()?.to_unix();
    OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_timed_uuids_are_in_time_order_and_all_other_keys_are_negative() {
        let ids = ["0198c0de-0000-7000-8000-000000000000", "0198c0de-0001-7000-8000-000000000000"];
        assert!(0 < key(ids[0]) && key(ids[0]) < key(ids[1]));
        assert!(key("7") < 0 && key("") < 0);
        assert!(key("550e8400-e29b-41d4-a716-446655440000") < 0);
    }
}
