//! Where published events went: for each part of the log, the sequences and the incarnation of the stream. A
//! few rows a minute are enough to find what a stream has lost.

use std::time::Duration;

use sqlx::PgConnection;
use time::OffsetDateTime;
use tokio::time::Instant;
use uuid::Uuid;

use super::place::Place;

/// How long a range is extended. Ranges are stored as long as their events, so there must not be too many.
const MAX_RANGE_AGE: Duration = Duration::from_secs(60);
/// How many events a range holds. If the stream loses one of them, all are republished, so there must not be
/// too many.
const MAX_RANGE_EVENTS: i64 = 100_000;

/// Where the stream has stored a page of events.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stored {
    /// The incarnation that was verified before publishing. If the stream is recreated in between, the events
    /// count as a loss of that incarnation.
    pub(crate) created: OffsetDateTime,
    pub(crate) first_sequence: i64,
    pub(crate) last_sequence: i64,
    /// The publication that stored the last sequence.
    pub(crate) last_id: Uuid,
    pub(crate) events: i64,
}

impl Stored {
    /// Both as one range of sequences.
    pub(crate) fn and(&self, other: &Self) -> Self {
        let last = if other.last_sequence > self.last_sequence { other } else { self };
        Self {
            created: self.created,
            first_sequence: self.first_sequence.min(other.first_sequence),
            last_sequence: last.last_sequence,
            last_id: last.last_id,
            events: self.events + other.events,
        }
    }
}

/// A part of the log: the rows visible in `target` and not in `done`, after `from` and up to `to`.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    pub(crate) done: String,
    pub(crate) target: String,
    pub(crate) from: Place,
    pub(crate) to: Place,
}

/// The range of the last page, which the next page may extend. Only this relay knows it: the next one starts a
/// new range.
#[derive(Debug)]
pub(crate) struct Open {
    number: i64,
    version: String,
    span: Span,
    stored: Stored,
    begun: Instant,
}

impl Open {
    pub(crate) fn number(&self) -> i64 {
        self.number
    }

    fn takes(&self, stored: &Stored) -> bool {
        self.stored.created == stored.created
            && self.stored.events + stored.events <= MAX_RANGE_EVENTS
            && self.begun.elapsed() < MAX_RANGE_AGE
    }
}

/// The ranges that a stream's relay is adding to.
#[derive(Debug, Default)]
pub(crate) struct Ranges {
    /// Holds whole steps of the cursor: ends where the last step ended.
    whole: Option<Open>,
    /// Holds pages of the step in progress.
    step: Option<Open>,
}

impl Ranges {
    /// Starts new ranges from now on: the previous ones may be marked as lost.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Stores where a page went. `ends_step`: it was the last page of its step.
    pub(crate) async fn record(
        &mut self,
        connection: &mut PgConnection,
        stream: &str,
        page: Span,
        stored: Option<Stored>,
        ends_step: bool,
    ) -> Result<(), sqlx::Error> {
        let begins_step = page.from == Place::START;
        if begins_step && ends_step {
            let Some(stored) = stored else { return Ok(()) };
            let extends = self
                .whole
                .as_ref()
                .is_some_and(|open| open.span.target == page.done && open.takes(&stored));
            if let (true, Some(open)) = (extends, &mut self.whole) {
                open.span.target = page.target;
                extend(connection, open, Some(stored)).await?;
            } else {
                self.whole = Some(insert(connection, stream, page, stored).await?);
            }
            return Ok(());
        }
        let extends = self.step.as_ref().is_some_and(|open| {
            open.span.to == page.from && stored.is_none_or(|stored| open.takes(&stored))
        });
        match (&mut self.step, stored) {
            (Some(open), stored) if extends => {
                open.span.to = page.to;
                extend(connection, open, stored).await?;
            }
            (_, Some(stored)) => {
                self.step = Some(insert(connection, stream, page, stored).await?);
            }
            // The previous page turned out to be the last one, and its range belongs to another
            // process. That range keeps its end, because nothing follows in the step.
            (_, None) => self.step = None,
        }
        if ends_step {
            self.step_ended(connection).await?;
        }
        Ok(())
    }

    /// Merges the range of one whole step into that of the previous steps, so that a relay that is always
    /// behind does not store a range per step.
    async fn step_ended(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let step = self.step.take().filter(|step| step.span.from == Place::START);
        let fits = |whole: &Open, step: &Open| {
            whole.span.target == step.span.done && whole.takes(&step.stored)
        };
        let (whole, step) = match (&mut self.whole, step) {
            (Some(whole), Some(step)) if fits(whole, &step) => (whole, step),
            (_, step) => {
                self.whole = step;
                return Ok(());
            }
        };
        whole.span.target.clone_from(&step.span.target);
        extend(connection, whole, Some(step.stored)).await?;
        sqlx::query("delete from bus.ranges where ctid = $1::text::tid and number = $2")
            .bind(&step.version)
            .bind(step.number)
            .execute(connection)
            .await?;
        Ok(())
    }
}

/// Starts a range.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    stream: &str,
    span: Span,
    stored: Stored,
) -> Result<Open, sqlx::Error> {
    let (number, version) = sqlx::query_as(
        "insert into bus.ranges (stream, created, first_sequence, last_sequence, last_id, events,
                                 done, target, from_transaction, from_position, to_transaction,
                                 to_position)
         values ($1, $2, $3, $4, $5, $6, $7::pg_snapshot, $8::pg_snapshot,
                 $9::text::xid8, $10, $11::text::xid8, $12)
         returning number, ctid::text",
    )
    .bind(stream)
    .bind(stored.created)
    .bind(stored.first_sequence)
    .bind(stored.last_sequence)
    .bind(stored.last_id)
    .bind(stored.events)
    .bind(&span.done)
    .bind(&span.target)
    .bind(span.from.transaction.to_string())
    .bind(span.from.position)
    .bind(span.to.transaction.to_string())
    .bind(span.to.position)
    .fetch_one(connection)
    .await?;
    Ok(Open { number, version, span, stored, begun: Instant::now() })
}

/// Extends a range. Finds its row by `ctid`, like the cursor.
async fn extend(
    connection: &mut PgConnection,
    open: &mut Open,
    stored: Option<Stored>,
) -> Result<(), sqlx::Error> {
    let version = sqlx::query_scalar(
        "update bus.ranges
         set target = $3::pg_snapshot, to_transaction = $4::text::xid8, to_position = $5,
             first_sequence = least(first_sequence, $6), last_sequence = greatest(last_sequence, $7),
             last_id = case when $7 > last_sequence then $8 else last_id end,
             events = events + $9, ended_at = clock_timestamp()
         where ctid = $1::text::tid and number = $2 and not lost
         returning ctid::text",
    )
    .bind(&open.version)
    .bind(open.number)
    .bind(&open.span.target)
    .bind(open.span.to.transaction.to_string())
    .bind(open.span.to.position)
    .bind(stored.map(|stored| stored.first_sequence))
    .bind(stored.map(|stored| stored.last_sequence))
    .bind(stored.map(|stored| stored.last_id))
    .bind(stored.map_or(0, |stored| stored.events))
    .fetch_optional(connection)
    .await?;
    // Moved by VACUUM FULL, or marked manually: the relay starts over with new ranges.
    open.version = version.ok_or(sqlx::Error::RowNotFound)?;
    if let Some(stored) = stored {
        open.stored = open.stored.and(&stored);
    }
    Ok(())
}
