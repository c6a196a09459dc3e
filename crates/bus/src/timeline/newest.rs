//! The newest events that this service committed to a stream, to be checked one by one against their outcome.

use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::log::depth::depth;

/// The most events of one answer.
pub const MAX_EVENTS: i64 = 1_000;

/// A committed event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
pub struct Committed {
    /// Its id.
    pub id: Uuid,
    /// Its NATS subject.
    pub subject: String,
    /// When its row was written.
    #[serde(with = "time::serde::rfc3339")]
    pub written_at: OffsetDateTime,
    /// Whether its stream has confirmed it.
    pub published: bool,
    #[serde(skip)]
    transaction: i64,
    #[serde(skip)]
    position: i64,
}

/// Where a page ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    transaction: i64,
    position: i64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.transaction, self.position)
    }
}

/// The text is not a [`Place`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not the end of a page")]
pub struct PlaceError;

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let parts = text.split_once('-').ok_or(PlaceError)?;
        let number = |text: &str| text.parse::<i64>().ok().filter(|number| *number >= 0);
        match (number(parts.0), number(parts.1)) {
            (Some(transaction), Some(position)) => Ok(Self { transaction, position }),
            _ => Err(PlaceError),
        }
    }
}

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A page of the newest events, and how many wait.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Page {
    /// The events, newest first.
    pub events: Vec<Committed>,
    /// Where the next page begins; `None` when there are no older ones.
    pub next: Option<Place>,
    /// How many events of the stream wait to be published. Exact up to 10,000, an estimate above.
    pub unpublished: i64,
    /// How many events the stream confirmed and lost, to be republished.
    pub lost: i64,
}

/// The newest events of a stream, before a place, at most `limit`. Reads as many index entries as it returns events,
/// and those that wait.
///
/// # Errors
/// Any database error.
pub async fn events(
    connection: &mut PgConnection,
    stream: &str,
    before: Option<Place>,
    limit: i64,
) -> Result<Page, sqlx::Error> {
    let before = before.unwrap_or(Place { transaction: i64::MAX, position: i64::MAX });
    let events: Vec<Committed> = sqlx::query_as(
        "select id, subject, written_at, transaction::text::bigint as transaction, position,
                coalesce(pg_visible_in_snapshot(transaction, done)
                    or target is not null and pg_visible_in_snapshot(transaction, target)
                       and (transaction, position) <= (at_transaction, at_position), false) as published
         from (select id, subject, written_at, transaction, position from bus.log
               where stream = $1 and (transaction, position) < ($2::text::xid8, $3)
               order by transaction desc, position desc limit $4) as newest
         left join bus.progress on progress.stream = $1
         order by newest.transaction desc, position desc",
    )
    .bind(stream)
    .bind(before.transaction.to_string())
    .bind(before.position)
    .bind(limit)
    .fetch_all(&mut *connection)
    .await?;
    let full = i64::try_from(events.len()).is_ok_and(|found| found >= limit);
    let last = events.last().filter(|_| full);
    let next = last.map(|last| Place { transaction: last.transaction, position: last.position });
    let depth = depth(connection, stream).await?;
    Ok(Page { events, next, unpublished: depth.unpublished, lost: depth.lost })
}
