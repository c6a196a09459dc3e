//! Republishes what a stream has lost, page by page, between new events. The range itself holds the progress,
//! so that any process can continue.

use std::time::Duration;

use sqlx::{Connection, PgConnection};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep};
use tracing::info;

use super::{
    error::RelayError,
    page::{self, PAGE, Page, Part},
    place::Place,
    ranges::{Span, Stored},
    session::bounded,
    state::StreamRelay,
};
use crate::topology;

/// How many events a group may have pending before the refill waits for it: new events queue behind them.
const MAX_GROUP_BACKLOG: u64 = 20_000;
/// How many pages are republished between two checks of the groups.
const PAGES_BETWEEN_LOOKS: u32 = 10;
/// How long the refill waits for a group that makes no progress, as when all its members are down.
const GROUP_PATIENCE: Duration = Duration::from_secs(2);
/// How often it checks a group that it waits for.
const GROUP_POLL: Duration = Duration::from_millis(50);

/// A range that has to be republished.
#[derive(Debug, sqlx::FromRow)]
pub(super) struct Lost {
    number: i64,
    done: String,
    target: String,
    from_transaction: i64,
    from_position: i64,
    to_transaction: i64,
    to_position: i64,
    restored_after: Option<OffsetDateTime>,
    successor: Option<i64>,
}

impl Lost {
    fn from(&self) -> Place {
        Place { transaction: self.from_transaction, position: self.from_position }
    }

    fn to(&self) -> Place {
        Place { transaction: self.to_transaction, position: self.to_position }
    }
}

impl StreamRelay {
    /// Republishes some pages, until it is time for new events. `false` if nothing is left to republish.
    pub(super) async fn refill(&mut self, until: Instant) -> Result<bool, RelayError> {
        for _ in 0..PAGES_BETWEEN_LOOKS {
            if !self.refill_page().await? {
                return Ok(false);
            }
            if self.wake.is_woken() || Instant::now() >= until {
                return Ok(true);
            }
        }
        self.let_groups_catch_up().await;
        Ok(true)
    }

    /// Waits until no group that makes progress has too many events pending.
    async fn let_groups_catch_up(&mut self) {
        let (mut before, mut since) = (u64::MAX, Instant::now());
        loop {
            let Ok(groups) = topology::groups(&self.bus, self.stream).await else { return };
            let pending = groups.iter().map(|group| group.pending).max().unwrap_or_default();
            if pending < before {
                (before, since) = (pending, Instant::now());
            }
            let patient = since.elapsed() < GROUP_PATIENCE;
            if pending < MAX_GROUP_BACKLOG || !patient || self.wake.is_woken() {
                return;
            }
            sleep(GROUP_POLL).await;
        }
    }

    /// Logs how many events were republished, if any.
    pub(super) fn log_refilled(&mut self) {
        if self.refilled > 0 {
            info!(
                stream = self.stream.name,
                events = self.refilled,
                "republished events that the stream had lost"
            );
            self.refilled = 0;
        }
    }

    /// Republishes one page. `false` if nothing is lost.
    async fn refill_page(&mut self) -> Result<bool, RelayError> {
        let stream = self.stream.name;
        let Some((lost, page)) = self.next_lost().await? else { return Ok(false) };
        let mut stored: Option<Stored> = None;
        for events in page.events.chunks(PAGE) {
            let now = self.publish(events, Some(lost.number)).await?;
            stored = Some(stored.map_or(now, |before: Stored| before.and(&now)));
        }
        let end = if page.full { page.end } else { None };
        let session = self.session.as_mut().ok_or(RelayError::NoTurn)?;
        let cursor = &mut self.cursor;
        // One transaction: the loss of a range above the cursor's last sequence would go unnoticed.
        let moved = bounded(async {
            let mut tx = session.connection.begin().await?;
            move_over(&mut tx, stream, &lost, end, stored).await?;
            let written = cursor.store(&mut tx, stream).await?;
            tx.commit().await?;
            Ok(written)
        });
        if !moved.await? {
            return Err(RelayError::Overtaken);
        }
        metrics::counter!("bus_refilled_total", "stream" => stream)
            .increment(page.events.len() as u64);
        self.refilled += page.events.len() as u64;
        Ok(true)
    }

    /// The next page to republish.
    pub(super) async fn next_lost(&mut self) -> Result<Option<(Lost, Page)>, RelayError> {
        let stream = self.stream.name;
        let connection = &mut self.session()?.connection;
        let Some(lost) = bounded(next(connection, stream)).await? else { return Ok(None) };
        let part = Part {
            stream,
            done: &lost.done,
            target: Some(&lost.target),
            after: lost.from(),
            up_to: lost.to(),
        };
        let page = match lost.restored_after {
            None => bounded(page::read(connection, part)).await?,
            Some(since) => bounded(page::read_restored(connection, part, since)).await?,
        };
        Ok(Some((lost, page)))
    }
}

async fn next(connection: &mut PgConnection, stream: &str) -> Result<Option<Lost>, sqlx::Error> {
    sqlx::query_as(
        "select number, done::text, target::text, from_transaction::text::bigint, from_position,
                to_transaction::text::bigint, to_position, restored_after, successor
         from bus.ranges where stream = $1 and lost order by number limit 1",
    )
    .bind(stream)
    .fetch_optional(connection)
    .await
}

/// Moves a page from a lost range to its successor. Without an `end`, it was the last page.
async fn move_over(
    tx: &mut PgConnection,
    stream: &str,
    lost: &Lost,
    end: Option<Place>,
    stored: Option<Stored>,
) -> Result<(), sqlx::Error> {
    let span = Span {
        done: lost.done.clone(),
        target: lost.target.clone(),
        from: lost.from(),
        to: end.unwrap_or(lost.to()),
    };
    let mut successor = lost.successor;
    if let Some(number) = successor
        && !extend(tx, number, span.to, stored).await?
    {
        successor = None;
    }
    if let (None, Some(stored)) = (successor, stored) {
        successor = Some(insert(tx, stream, &span, stored, lost.restored_after).await?);
    }
    if let Some(end) = end {
        sqlx::query(
            "update bus.ranges
             set from_transaction = $2::text::xid8, from_position = $3, successor = $4,
                 events = greatest(events - $5, 0)
             where number = $1",
        )
        .bind(lost.number)
        .bind(end.transaction.to_string())
        .bind(end.position)
        .bind(successor)
        .bind(stored.map_or(0, |stored| stored.events))
        .execute(tx)
        .await?;
    } else {
        sqlx::query("delete from bus.ranges where number = $1")
            .bind(lost.number)
            .execute(tx)
            .await?;
    }
    Ok(())
}

/// Adds a page to the successor. `false` if that was lost itself, or is of another incarnation.
async fn extend(
    tx: &mut PgConnection,
    number: i64,
    to: Place,
    stored: Option<Stored>,
) -> Result<bool, sqlx::Error> {
    let extended = sqlx::query(
        "update bus.ranges
         set to_transaction = $2::text::xid8, to_position = $3,
             first_sequence = least(first_sequence, $4), last_sequence = greatest(last_sequence, $5),
             last_id = case when $5 > last_sequence then $6 else last_id end,
             events = events + $7, ended_at = clock_timestamp()
         where number = $1 and not lost and ($8::timestamptz is null or created = $8)",
    )
    .bind(number)
    .bind(to.transaction.to_string())
    .bind(to.position)
    .bind(stored.map(|stored| stored.first_sequence))
    .bind(stored.map(|stored| stored.last_sequence))
    .bind(stored.map(|stored| stored.last_id))
    .bind(stored.map_or(0, |stored| stored.events))
    .bind(stored.map(|stored| stored.created))
    .execute(tx)
    .await?;
    Ok(extended.rows_affected() > 0)
}

async fn insert(
    tx: &mut PgConnection,
    stream: &str,
    span: &Span,
    stored: Stored,
    restored_after: Option<OffsetDateTime>,
) -> Result<i64, sqlx::Error> {
    let open = super::ranges::insert(tx, stream, span.clone(), stored).await?;
    if restored_after.is_some() {
        sqlx::query("update bus.ranges set restored_after = $2 where number = $1")
            .bind(open.number())
            .bind(restored_after)
            .execute(tx)
            .await?;
    }
    Ok(open.number())
}
