//! Publishes again what a stream has lost, page by page, beside the new events. How far it is stands in
//! the range itself, so that it goes on where it was, in whichever process.

use std::time::Duration;

use anyhow::{Context, ensure};
use sqlx::{Connection, PgConnection};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep};
use tracing::info;

use super::{
    Place,
    page::{self, PAGE, Page, Part},
    ranges::{Span, Stored},
    session::bounded,
    stream_relay::StreamRelay,
};
use crate::topology;

/// How many events of a refill may wait in a group before the refill waits for the group: new events
/// queue behind them.
const AHEAD: u64 = 20_000;
/// How many pages of a refill go out between two looks at the groups.
const PAGES_BETWEEN_LOOKS: u32 = 10;
/// How long the refill waits for a group that takes nothing. One that is away does not hold it up.
const GROUP_PATIENCE: Duration = Duration::from_secs(2);

/// A range that has to be published again.
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
    /// Publishes pages of what was lost, until new events should be looked at. `false` when nothing is
    /// lost any more.
    pub(crate) async fn refill(&mut self, until: Instant) -> anyhow::Result<bool> {
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

    /// Waits until no group that takes events has too many before it.
    async fn let_groups_catch_up(&mut self) {
        let (mut before, mut since) = (u64::MAX, Instant::now());
        loop {
            let Ok(groups) = topology::groups(&self.bus, self.stream).await else { return };
            let pending = groups.iter().map(|group| group.pending).max().unwrap_or_default();
            if pending < before {
                (before, since) = (pending, Instant::now());
            }
            let patient = since.elapsed() < GROUP_PATIENCE;
            if pending < AHEAD || !patient || self.wake.is_woken() {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) fn say_refilled(&mut self) {
        if self.refilled > 0 {
            info!(
                stream = self.stream.name,
                events = self.refilled,
                "published again what the stream had lost"
            );
            self.refilled = 0;
        }
    }

    /// Publishes one page of what was lost. `false` when nothing is.
    async fn refill_page(&mut self) -> anyhow::Result<bool> {
        let stream = self.stream.name;
        let Some((lost, page)) = self.next_lost().await? else { return Ok(false) };
        let mut stored: Option<Stored> = None;
        for events in page.events.chunks(PAGE) {
            let now = self.publish(events, Some(lost.number)).await?;
            stored = Some(stored.map_or(now, |before: Stored| before.and(&now)));
        }
        let end = if page.full { page.end } else { None };
        let session = self.session.as_mut().context("it is not this relay's turn")?;
        let cursor = &mut self.cursor;
        // One transaction: of a range above the last confirmed sequence, a loss would not be seen.
        let moved = bounded(async {
            let mut tx = session.connection.begin().await?;
            move_over(&mut tx, stream, &lost, end, stored).await?;
            let written = cursor.store(&mut tx, stream).await?;
            tx.commit().await?;
            Ok(written)
        });
        ensure!(moved.await?, "the stream's progress was written by somebody else");
        metrics::counter!("bus_refilled_total", "stream" => stream)
            .increment(page.events.len() as u64);
        self.refilled += page.events.len() as u64;
        Ok(true)
    }

    /// The next page of what was lost, without publishing it.
    pub(super) async fn next_lost(&mut self) -> anyhow::Result<Option<(Lost, Page)>> {
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

    /// Publishes events, and takes note of what the answer tells of the stream.
    pub(crate) async fn publish(
        &mut self,
        events: &[page::Outgoing],
        again: Option<i64>,
    ) -> anyhow::Result<Stored> {
        let publisher = self.publisher.as_ref().context("the stream is not verified")?;
        let stored = publisher.publish(events, again).await?;
        self.note(&stored).await?;
        let cursor = &mut self.cursor;
        cursor.last_sequence = stored.last_sequence;
        cursor.last_id = Some(stored.last_id);
        // What was acknowledged or removed at these sequences were other messages.
        cursor.acknowledged = cursor.acknowledged.min(stored.first_sequence - 1);
        cursor.first_sequence = cursor.first_sequence.min(stored.first_sequence);
        Ok(stored)
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

/// Moves a page from a lost range into the one that follows it. With no `end`, it was the last.
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

/// Adds a page to the range that follows. `false` when that was lost itself, or is of another incarnation.
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
