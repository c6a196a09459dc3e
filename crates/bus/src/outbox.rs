//! Events on their way out: written in the transaction that made them true, so that an event
//! exists exactly when its cause does.

use std::time::Duration;

use sqlx::PgConnection;
use time::OffsetDateTime;
use tokio::time::{MissedTickBehavior, interval};
use tracing::debug;
use uuid::Uuid;

use crate::{
    BusError, envelope,
    event::{Event, Stream},
    log::{
        Place,
        cursor::NOTHING,
        page,
        session::{Session, bounded},
    },
    pool::Pool,
    shutdown::Shutdown,
};

/// The largest event, in bytes of its envelope: a quarter of what a NATS server takes by default. A larger
/// one, which the server refuses, would hold up all that come after it.
pub const MAX_BYTES: usize = 256 * 1024;
/// How often the depth is measured. Below the time after which the server ends an idle session.
const MEASURE: Duration = Duration::from_secs(4);

/// An event in its envelope, part of the trace in which it was prepared.
#[derive(Debug, Clone)]
pub struct OutboxEvent {
    /// The event's id.
    pub id: Uuid,
    stream: &'static str,
    subject: &'static str,
    envelope: String,
}

/// Gives an event its id, its time and its envelope, as part of the current trace.
///
/// # Errors
/// When the event does not serialize, or is larger than [`MAX_BYTES`].
pub fn prepare<E: Event>(event: &E) -> Result<OutboxEvent, BusError> {
    let id = Uuid::now_v7();
    let envelope = envelope::encode(id, OffsetDateTime::now_utc(), event)?;
    if envelope.len() > MAX_BYTES {
        return Err(BusError::TooLarge(envelope.len()));
    }
    Ok(OutboxEvent { id, stream: E::STREAM.name, subject: E::SUBJECT, envelope })
}

/// Puts an event into the outbox, within the transaction of what it tells of. After the commit,
/// wake the relay ([`Relay::wake`](crate::relay::Wake::wake)); without, it looks by itself within
/// a second.
///
/// Returns the event's id.
///
/// # Errors
/// When the event does not serialize or the database refuses; the transaction is then of no use.
pub async fn put<E: Event>(tx: &mut PgConnection, event: &E) -> Result<Uuid, BusError> {
    let event = prepare(event)?;
    put_prepared(tx, [&event]).await?;
    Ok(event.id)
}

/// Puts many events into the outbox in one statement, each as part of the trace in which it was
/// prepared.
///
/// # Errors
/// When the database refuses; the transaction is then of no use.
pub async fn put_prepared(
    tx: &mut PgConnection,
    events: impl IntoIterator<Item = &OutboxEvent>,
) -> Result<(), sqlx::Error> {
    let (mut ids, mut streams, mut subjects, mut envelopes) = (vec![], vec![], vec![], vec![]);
    for OutboxEvent { id, stream, subject, envelope } in events {
        ids.push(*id);
        streams.push(*stream);
        subjects.push(*subject);
        envelopes.push(envelope.as_str());
    }
    sqlx::query(
        "insert into bus.log (id, stream, subject, envelope)
         select * from unnest($1::uuid[], $2::text[], $3::text[], $4::text[])",
    )
    .bind(ids)
    .bind(streams)
    .bind(subjects)
    .bind(envelopes)
    .execute(tx)
    .await?;
    Ok(())
}

/// What waits to be published.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Depth {
    /// Events not yet confirmed by their stream. Exact up to 10,000, an estimate above.
    pub unpublished: i64,
    /// How long the oldest of them has waited, in seconds; 0 when none waits.
    pub oldest_seconds: f64,
    /// Events that their stream had confirmed and has lost, to be published again.
    pub lost: i64,
}

/// Looks how much waits for a stream. Costs the same however much waits.
///
/// # Errors
/// When the database does.
pub async fn depth(connection: &mut PgConnection, stream: &str) -> Result<Depth, sqlx::Error> {
    let (done, at_transaction, at_position): (String, Option<i64>, Option<i64>) = sqlx::query_as(
        "select done::text, at_transaction::text::bigint, at_position from bus.progress
         where stream = $1",
    )
    .bind(stream)
    .fetch_optional(&mut *connection)
    .await?
    .unwrap_or_else(|| (NOTHING.to_owned(), None, None));
    let after = Place::of(at_transaction, at_position);
    let waiting = page::waiting(connection, stream, &done, after).await?;
    let lost: Option<i64> =
        sqlx::query_scalar("select sum(events)::bigint from bus.ranges where stream = $1 and lost")
            .bind(stream)
            .fetch_one(connection)
            .await?;
    Ok(Depth { lost: lost.unwrap_or_default(), ..waiting })
}

/// Measures the outbox until the process stops. It asks Postgres alone, on a session of its own: an
/// outbox that grows because NATS is away, or the pool busy, is what must be seen. While Postgres does
/// not answer the gauges are `NaN`, for nobody knows.
pub(crate) async fn measure(
    pool: Pool,
    streams: &'static [&'static Stream],
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let mut round = interval(MEASURE);
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut session = None;
    loop {
        tokio::select! {
            () = shutdown.begun() => return Ok(()),
            _ = round.tick() => {}
        }
        let depth = match measured(&pool, &mut session, streams).await {
            Ok(depth) => depth,
            Err(error) => {
                session = None;
                debug!(%error, "the outbox cannot be measured");
                show(f64::NAN, f64::NAN, f64::NAN);
                continue;
            }
        };
        #[expect(clippy::cast_precision_loss, reason = "gauges")]
        show(depth.unpublished as f64, depth.oldest_seconds, depth.lost as f64);
    }
}

fn show(unpublished: f64, oldest_seconds: f64, lost: f64) {
    metrics::gauge!("bus_outbox_depth").set(unpublished);
    metrics::gauge!("bus_outbox_oldest_seconds").set(oldest_seconds);
    metrics::gauge!("bus_lost_events").set(lost);
}

async fn measured(
    pool: &Pool,
    session: &mut Option<Session>,
    streams: &[&Stream],
) -> Result<Depth, sqlx::Error> {
    let session = match session {
        Some(session) => session,
        None => session.insert(Session::open(pool).await?),
    };
    let mut all = Depth::default();
    for stream in streams {
        let depth = bounded(depth(&mut session.connection, stream.name)).await?;
        all.unpublished += depth.unpublished;
        all.lost += depth.lost;
        all.oldest_seconds = all.oldest_seconds.max(depth.oldest_seconds);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;

    const NOTES: Stream = Stream { name: "NOTES", subjects: &["note:written"] };

    #[derive(Debug, Serialize, Deserialize)]
    struct NoteWritten(String);

    impl Event for NoteWritten {
        const SUBJECT: &'static str = "note:written";
        const STREAM: &'static Stream = &NOTES;
        const SCHEMA_VERSION: u32 = 1;
        const SOURCE: &'static str = "/notes";

        fn entity_id(&self) -> String {
            String::new()
        }
    }

    #[test]
    fn an_event_that_a_server_would_refuse_is_refused_before_it_is_written() {
        assert!(prepare(&NoteWritten("x".repeat(MAX_BYTES / 2))).is_ok());
        let refused = prepare(&NoteWritten("x".repeat(MAX_BYTES))).unwrap_err();
        assert!(matches!(refused, BusError::TooLarge(_)), "{refused}");
    }
}
