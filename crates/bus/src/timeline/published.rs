//! The events that this service committed about an entity, and where they were published.

use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    connection::Bus,
    envelope::Envelope,
    log::{
        entity::{self, Logged},
        whereabouts::{self, Range, Whereabouts},
    },
    pool::Pool,
    topology,
    trace::TraceContext,
};

/// The most events of one answer.
pub const MAX_EVENTS: usize = 100;
/// How far from its expected place a message is looked for: others may publish to the stream as well.
const AROUND: i64 = 8;
/// How long all stream lookups of one answer may take together. An event not found by then is reported with its range.
const LOOKS: Duration = Duration::from_secs(3);

/// An event that was committed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Its id.
    pub id: Uuid,
    /// Its type, which is its NATS subject.
    pub subject: String,
    /// Its stream.
    pub stream: String,
    /// When it happened: before the commit of its cause.
    #[serde(with = "time::serde::rfc3339")]
    pub time: OffsetDateTime,
    /// When its row was written; its cause was committed right after.
    #[serde(with = "time::serde::rfc3339")]
    pub written_at: OffsetDateTime,
    /// The id of its trace, if it has one.
    pub trace_id: Option<String>,
    /// Its payload.
    pub data: Box<RawValue>,
    /// Whether and where it was published.
    pub publication: Publication,
}

/// Whether and where an event was published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Publication {
    /// It waits to be published.
    Waiting,
    /// Its stream confirmed and lost it, and it waits to be republished.
    Lost,
    /// The stream has it at this place.
    Stored {
        /// Its sequence in the stream.
        sequence: i64,
        /// When the stream stored it.
        #[serde(with = "time::serde::rfc3339")]
        at: OffsetDateTime,
    },
    /// The stream confirmed it within this range; the message itself was not found there.
    Within {
        /// The first sequence of the range.
        first_sequence: i64,
        /// The last one.
        last_sequence: i64,
        /// When the range began to be published.
        #[serde(with = "time::serde::rfc3339")]
        from: OffsetDateTime,
        /// When its last event was confirmed.
        #[serde(with = "time::serde::rfc3339")]
        to: OffsetDateTime,
    },
    /// It was published. Its place is no longer known.
    Unknown,
}

/// A page of an entity's events.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Page {
    /// The events, in the order in which they were written.
    pub events: Vec<Event>,
    /// Where the next page begins; `None` when that was all.
    pub next: Option<i64>,
    /// Whether every event of this release can be found. Right after an upgrade, those of up to two days cannot.
    pub complete: bool,
}

/// The events of an entity, after the `next` of an earlier page.
///
/// # Errors
/// Any database error. If NATS does not answer, places are ranges.
pub async fn events(
    pool: &Pool,
    bus: &Bus,
    entity: &str,
    after: Option<i64>,
) -> Result<Page, sqlx::Error> {
    let read = async |connection: &mut PgConnection| {
        let after = after.unwrap_or(i64::MIN);
        let found = entity::events(connection, entity, after, MAX_EVENTS).await?;
        let mut placed = Vec::with_capacity(found.events.len());
        for event in found.events {
            let whereabouts = whereabouts::of(connection, &event).await?;
            placed.push((event, whereabouts));
        }
        Ok::<_, sqlx::Error>((placed, found.next, found.complete))
    };
    let (placed, next, complete) = pool.run(read).await?;
    let deadline = tokio::time::Instant::now() + LOOKS;
    let mut events = Vec::with_capacity(placed.len());
    for (logged, whereabouts) in placed {
        let look = publication(bus, &logged, &whereabouts);
        let found = tokio::time::timeout_at(deadline, look).await;
        let publication = found.unwrap_or_else(|_| by_range(&whereabouts));
        events.extend(event(&logged, publication));
    }
    Ok(Page { events, next, complete })
}

fn event(logged: &Logged, publication: Publication) -> Option<Event> {
    let envelope = Envelope::parse(logged.envelope.as_bytes()).ok()?;
    let trace = envelope.traceparent.as_deref().and_then(|text| text.parse::<TraceContext>().ok());
    Some(Event {
        id: logged.id,
        subject: logged.subject.clone(),
        stream: logged.stream.clone(),
        time: envelope.time,
        written_at: logged.written_at,
        trace_id: trace.map(|trace| trace.trace_id()),
        data: envelope.data.to_owned(),
        publication,
    })
}

/// The state as known without a look at the stream.
fn by_range(whereabouts: &Whereabouts) -> Publication {
    match whereabouts {
        Whereabouts::Waiting => Publication::Waiting,
        Whereabouts::Lost => Publication::Lost,
        Whereabouts::Unknown => Publication::Unknown,
        Whereabouts::Published(Range {
            first_sequence, last_sequence, begun_at, ended_at, ..
        }) => Publication::Within {
            first_sequence: *first_sequence,
            last_sequence: *last_sequence,
            from: *begun_at,
            to: *ended_at,
        },
    }
}

/// Looks for the message where it must be, and then around that.
async fn publication(bus: &Bus, event: &Logged, whereabouts: &Whereabouts) -> Publication {
    let by_range = by_range(whereabouts);
    let Whereabouts::Published(range) = whereabouts else { return by_range };
    let Some(expected) = range.expected else { return by_range };
    let near = (1..=AROUND).flat_map(|step| [expected + step, expected - step]);
    let places = std::iter::once(expected).chain(near);
    for sequence in places.filter(|at| (range.first_sequence..=range.last_sequence).contains(at)) {
        let Ok(at) = u64::try_from(sequence) else { continue };
        match topology::message(bus, &event.stream, at).await {
            Ok(Some(message)) if message.is_event(event.id) => {
                return Publication::Stored { sequence, at: message.stored_at };
            }
            Ok(_) => {}
            // NATS does not answer, or this process may not read there.
            Err(_) => return by_range,
        }
    }
    by_range
}
