//! How many events wait in the outbox.

use std::time::Duration;

use sqlx::PgConnection;
use tokio::time::{MissedTickBehavior, interval};
use tracing::debug;

use super::{
    cursor::NOTHING,
    page,
    place::Place,
    session::{Session, bounded},
};
use crate::{event::Stream, pool::Pool, shutdown::Shutdown};

/// How often the depth is measured. Below the time after which Postgres ends an idle session.
const MEASURE: Duration = Duration::from_secs(4);

/// How many events wait to be published.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Depth {
    /// Events that their stream has not confirmed. Exact up to 10,000, an estimate above.
    pub unpublished: i64,
    /// How long the oldest of them has waited, in seconds. 0 if none waits.
    pub oldest_seconds: f64,
    /// Events that their stream confirmed and lost, to be republished.
    pub lost: i64,
}

/// The depth of the outbox for one stream. Costs the same however many events wait.
///
/// # Errors
/// Any database error.
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
    Ok(Depth {
        unpublished: waiting.events,
        oldest_seconds: waiting.oldest_seconds,
        lost: lost.unwrap_or_default(),
    })
}

/// Measures the outbox until the process stops. It uses only Postgres, on a session of its own,
/// because the outbox must be visible while NATS is unavailable or the pool is exhausted. While
/// Postgres does not answer, the gauges are `NaN`.
pub(crate) async fn measure(pool: Pool, streams: &'static [&'static Stream], shutdown: Shutdown) {
    let mut round = interval(MEASURE);
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut session = None;
    loop {
        tokio::select! {
            () = shutdown.begun() => return,
            _ = round.tick() => {}
        }
        let depth = match measured(&pool, &mut session, streams).await {
            Ok(depth) => depth,
            Err(error) => {
                session = None;
                debug!(%error, "cannot measure the outbox");
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
