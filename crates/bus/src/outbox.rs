//! Events on their way out: written in the transaction that made them true, so that an event
//! exists exactly when its cause does.

use std::time::Duration;

use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, error, info};
use uuid::Uuid;

use crate::{BusError, database_is_away, envelope, relay::RETENTION};
use crate::{event::Event, shutdown::Shutdown};

/// How often old rows are deleted and depths are measured.
const HOUSEKEEPING: Duration = Duration::from_secs(5);
/// How many rows one round of housekeeping deletes.
const PRUNE_LIMIT: i64 = 10_000;

/// An event in its envelope, part of the trace in which it was sealed.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// The event's id.
    pub id: Uuid,
    stream: &'static str,
    subject: &'static str,
    envelope: String,
}

/// Gives an event its id, its time and its envelope, as part of the current trace.
///
/// # Errors
/// When the event does not serialize.
pub fn seal<E: Event>(event: &E) -> Result<Sealed, BusError> {
    let id = Uuid::now_v7();
    let envelope = envelope::seal(id, OffsetDateTime::now_utc(), event)?;
    Ok(Sealed { id, stream: E::STREAM.name, subject: E::SUBJECT, envelope })
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
    let sealed = seal(event)?;
    put_sealed(tx, [&sealed]).await?;
    Ok(sealed.id)
}

/// Puts many events into the outbox in one statement, each as part of the trace in which it was
/// sealed.
///
/// # Errors
/// When the database refuses; the transaction is then of no use.
pub async fn put_sealed(
    tx: &mut PgConnection,
    events: impl IntoIterator<Item = &Sealed>,
) -> Result<(), sqlx::Error> {
    let (mut ids, mut streams, mut subjects, mut envelopes) = (vec![], vec![], vec![], vec![]);
    for Sealed { id, stream, subject, envelope } in events {
        ids.push(*id);
        streams.push(*stream);
        subjects.push(*subject);
        envelopes.push(envelope.as_str());
    }
    sqlx::query(
        "insert into bus.outbox (id, stream, subject, envelope)
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

/// What waits in the outbox.
#[derive(Debug, Clone, Copy, Default, sqlx::FromRow)]
pub struct Depth {
    /// Events not yet confirmed by the stream.
    pub unpublished: i64,
    /// How long the oldest of them has waited, in seconds; 0 when none waits.
    pub oldest_seconds: f64,
}

/// Looks how much waits.
///
/// # Errors
/// When the database does.
pub async fn depth(connection: &mut PgConnection) -> Result<Depth, sqlx::Error> {
    sqlx::query_as(
        "select count(*) as unpublished,
                coalesce(extract(epoch from clock_timestamp() - min(created_at)), 0)::float8
                    as oldest_seconds
         from bus.outbox where published_at is null",
    )
    .fetch_one(connection)
    .await
}

/// Deletes events that were published longer ago than `retention`, at most `limit` of them.
/// Returns how many.
///
/// # Errors
/// When the database does.
pub async fn prune(
    connection: &mut PgConnection,
    retention: Duration,
    limit: i64,
) -> Result<u64, sqlx::Error> {
    let pruned = sqlx::query(
        "delete from bus.outbox where id in (
             select id from bus.outbox where published_at < clock_timestamp() - $1
             order by published_at limit $2 for update skip locked)",
    )
    .bind(retention)
    .bind(limit)
    .execute(connection)
    .await?;
    Ok(pruned.rows_affected())
}

/// Measures the outbox and deletes what is past its retention, until the process stops. It asks
/// Postgres alone: an outbox that grows because NATS is away is what must be seen.
pub(crate) async fn tend(pool: PgPool, shutdown: Shutdown) -> anyhow::Result<()> {
    let mut round = interval(HOUSEKEEPING);
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let done = tokio::select! {
            () = shutdown.begun() => return Ok(()),
            _ = round.tick() => keep_house(&pool).await,
        };
        match done {
            Err(error) if database_is_away(&error) => debug!(%error, "the outbox must wait"),
            Err(error) => error!(%error, "could not tend the outbox"),
            Ok(()) => {}
        }
    }
}

async fn keep_house(pool: &PgPool) -> Result<(), sqlx::Error> {
    let mut connection = pool.acquire().await?;
    let depth = depth(&mut connection).await?;
    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    metrics::gauge!("bus_outbox_depth").set(depth.unpublished as f64);
    metrics::gauge!("bus_outbox_oldest_seconds").set(depth.oldest_seconds);
    let pruned = prune(&mut connection, RETENTION, PRUNE_LIMIT).await?;
    if pruned > 0 {
        info!(events = pruned, "deleted published events past their retention");
    }
    Ok(())
}
