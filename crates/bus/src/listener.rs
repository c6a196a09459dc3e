//! What a service writes to take part in a queue group.

use std::{future::Future, time::Duration};

use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::event::EventSet;
use crate::{BusError, database_is_away, database_is_busy};

/// A service's part of a queue group: what to do with its events.
///
/// The delivery loop opens the transaction, commits it, and acknowledges after that. A listener
/// gets the connection and no pool, so it cannot do so too early.
///
/// ```
/// use bus::{Event, Failure, Listener, Received, Stream};
/// use serde::{Deserialize, Serialize};
/// use sqlx::PgConnection;
///
/// const PARCELS: Stream = Stream { name: "PARCELS", subjects: &["parcel:sent"] };
///
/// #[derive(Debug, Serialize, Deserialize)]
/// struct ParcelSent(u64);
///
/// impl Event for ParcelSent {
///     const SUBJECT: &'static str = "parcel:sent";
///     const STREAM: &'static Stream = &PARCELS;
///     const SCHEMA_VERSION: u32 = 1;
///     const SOURCE: &'static str = "/parcels";
///     fn entity_id(&self) -> String { self.0.to_string() }
/// }
///
/// /// Counts parcels.
/// struct Counter;
///
/// impl Listener for Counter {
///     type Events = ParcelSent;
///     const QUEUE_GROUP: &'static str = "counter-service";
///
///     async fn handle(
///         &self,
///         tx: &mut PgConnection,
///         batch: &[&Received<ParcelSent>],
///     ) -> Result<(), Failure> {
///         sqlx::query("update counter set parcels = parcels + $1")
///             .bind(batch.len() as i64)
///             .execute(tx)
///             .await?;
///         Ok(())
///     }
/// }
/// ```
pub trait Listener: Send + Sync + 'static {
    /// The events that it wants.
    type Events: EventSet;
    /// The queue group's name, which is also the durable consumer's. Each event goes to one member
    /// of each group.
    const QUEUE_GROUP: &'static str;

    /// Writes the effect of a batch of events, in the order of the stream. Each of them is new to
    /// this group, and all of them commit or none.
    ///
    /// When it fails, the batch is tried again in pieces, down to single events, each behind a
    /// savepoint of one transaction. So the listener may find effects of others before its own, and
    /// must not begin, commit or roll back.
    fn handle(
        &self,
        tx: &mut PgConnection,
        batch: &[&Received<Self::Events>],
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Called after the commit of what [`Self::handle`] wrote: the moment to wake a relay for the
    /// events that it put into the outbox. A process that dies in between never calls it, so nothing
    /// may rest on it.
    fn after_commit(&self) {}
}

/// An event as it was received.
#[derive(Debug, Clone)]
pub struct Received<E> {
    /// The event's id.
    pub id: Uuid,
    /// When it happened, by its publisher.
    pub time: OffsetDateTime,
    /// Which member received it: this process.
    pub client_id: String,
    /// The event.
    pub event: E,
}

/// Why a listener could not write an event's effect, by what happens next.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It can never succeed: the event becomes a dead letter now.
    #[error("{0}")]
    Reject(String),
    /// It may succeed later: the event is tried again after a growing delay, and becomes a dead
    /// letter after [`MAX_ATTEMPTS`].
    #[error("{0:#}")]
    Retry(anyhow::Error),
    /// The database serves, but not this event now, as when its row is locked: not the event's fault.
    /// It is tried again after a growing delay, however often that takes, and nothing is counted.
    #[error("the database is busy: {0}")]
    Busy(sqlx::Error),
    /// The database is away: not the event's fault. Nothing is counted; pulling pauses until the
    /// database answers.
    #[error("the database is away: {0}")]
    Away(sqlx::Error),
}

/// How often an event is tried by itself before it becomes a dead letter.
pub const MAX_ATTEMPTS: i32 = 5;
/// How long one call of a listener may take: the longest statement (5 s), and a little for the others.
/// What it held is with another member 15 s after it fell silent, at the latest.
pub const HANDLER_TIMEOUT: Duration = Duration::from_secs(6);
/// The delay before the second attempt.
const FIRST_DELAY: Duration = Duration::from_millis(250);
/// The longest delay between attempts.
const MAX_DELAY: Duration = Duration::from_secs(15);

/// How long to wait after so many attempts: four times longer each time, less up to half, so that
/// events which failed together do not come back together. Five attempts span about 20 s.
pub(crate) fn delay(attempts: i32) -> Duration {
    let exponent = u32::try_from(attempts.saturating_sub(1)).unwrap_or(0).min(10);
    let delay = FIRST_DELAY.saturating_mul(4_u32.pow(exponent)).min(MAX_DELAY);
    delay.mul_f64(rand::random_range(0.5..=1.0))
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        if database_is_away(&error) {
            return Self::Away(error);
        }
        if database_is_busy(&error) {
            return Self::Busy(error);
        }
        // Class 22, data exceptions: the value itself will not do, now or later.
        // <https://www.postgresql.org/docs/current/errcodes-appendix.html>
        let code = error.as_database_error().and_then(|error| error.code());
        if code.is_some_and(|code| code.starts_with("22")) {
            return Self::Reject(error.to_string());
        }
        // By its text: the error repeats itself as its own source.
        Self::Retry(anyhow::anyhow!("{error}"))
    }
}

impl From<BusError> for Failure {
    fn from(error: BusError) -> Self {
        match error {
            BusError::Database(error) => error.into(),
            error @ (BusError::Serialize(_) | BusError::TooLarge(_)) => {
                Self::Reject(error.to_string())
            }
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        // A listener may have added what it was doing.
        match error.downcast::<sqlx::Error>() {
            Ok(error) => error.into(),
            Err(error) => Self::Retry(error),
        }
    }
}
