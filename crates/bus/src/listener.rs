//! The trait that a service implements to join a queue group.

use std::{error::Error, future::Future, time::Duration};

use sqlx::PgConnection;
use time::OffsetDateTime;
use tracing::Span;
use uuid::Uuid;

use crate::{
    backoff::Backoff,
    error::{BoxError, BusError, chain, database_error, database_is_away, database_is_busy},
    event::EventSet,
    trace::TraceContext,
};

/// Writes the effects of the events of a queue group.
///
/// The delivery loop begins the transaction, commits it, and then acknowledges. A listener gets the
/// connection and not the pool, so it cannot commit or acknowledge too early.
///
/// ```
/// use bus::{Event, Failure, Listener, Received, Stream};
/// use serde::{Deserialize, Serialize};
/// use sqlx::PgConnection;
///
/// const PARCELS: Stream = Stream {
///     name: "PARCELS",
///     subjects: &["parcel:sent"],
///     schema_prefix: "urn:example:event:",
/// };
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
    /// The events that it takes.
    type Events: EventSet;
    /// The name of the queue group and of its durable consumer. Each event goes to one member of each
    /// group.
    const QUEUE_GROUP: &'static str;

    /// Writes the effects of a batch of events, in stream order. Each event is new to this group. All
    /// effects commit, or none.
    ///
    /// If it fails, the batch is retried in smaller pieces, down to single events, each behind a savepoint
    /// of one transaction. So the transaction may hold effects of other pieces, and the listener must not
    /// begin, commit or roll back.
    ///
    /// Every line it logs carries the queue group and the client id, and for a batch of one event also the
    /// event's id, type and trace id. In a larger batch, enter [`Received::span`] for those, and prepare
    /// events that it causes in [`Received::in_trace`].
    fn handle(
        &self,
        tx: &mut PgConnection,
        batch: &[&Received<Self::Events>],
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Called after the commit of what [`Self::handle`] wrote: wake a relay here for the events
    /// that it put into the outbox. A process that dies in between never calls it, so nothing may depend
    /// on it.
    fn after_commit(&self) {}
}

/// An event as it was received.
#[derive(Debug, Clone)]
pub struct Received<E> {
    /// The event's id.
    pub id: Uuid,
    /// When it happened, according to its publisher.
    pub time: OffsetDateTime,
    /// The member that received it: this process.
    pub client_id: String,
    /// The event.
    pub event: E,
    span: Span,
    trace: Option<TraceContext>,
}

impl<E> Received<E> {
    /// An event as a member would receive it, to call a listener in a test.
    pub fn new(id: Uuid, time: OffsetDateTime, client_id: String, event: E) -> Self {
        Self { id, time, client_id, event, span: Span::none(), trace: None }
    }

    pub(crate) fn in_span(self, span: Span, trace: Option<TraceContext>) -> Self {
        Self { span, trace, ..self }
    }

    /// Where the work on it belongs, in its publisher's trace.
    pub(crate) fn trace(&self) -> Option<TraceContext> {
        self.trace
    }

    /// Runs `work` as part of the event's trace: an event that it prepares for the outbox continues the trace.
    /// Needed in a batch of several events, which have no trace in common.
    pub fn in_trace<T>(&self, work: impl FnOnce() -> T) -> T {
        match self.trace {
            Some(trace) => trace.sync_scope(work),
            None => work(),
        }
    }

    /// The span with the event's id, type, trace id, queue group and client id.
    pub fn span(&self) -> &Span {
        &self.span
    }
}

/// Why a listener could not write an event's effect, by what the bus does next.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It can never succeed: the event becomes a dead letter at once.
    #[error("{0}")]
    Reject(String),
    /// It may succeed later: the event is retried after a growing delay, and becomes a dead letter after
    /// [`Options::max_attempts`](crate::Options::max_attempts).
    #[error("{}", chain(&**.0))]
    Retry(BoxError),
    /// The database serves, but not this event now, for example because its row is locked. Not the
    /// event's fault: it is retried after a growing delay, without a limit, and no attempt is counted.
    #[error("the database is busy: {0}")]
    Busy(sqlx::Error),
    /// The database is unavailable. Not the event's fault: no attempt is counted, and the member stops
    /// pulling until the database answers.
    #[error("the database is unavailable: {0}")]
    Away(sqlx::Error),
}

/// How long one call of a listener may take: the longest statement (5 s) and some slack.
pub const HANDLER_TIMEOUT: Duration = Duration::from_secs(6);
/// The delay between attempts to process one event. Five attempts take about 20 s.
const RETRY: Backoff =
    Backoff::new(Duration::from_millis(250), Duration::from_secs(15)).with_factor(4);

/// How long to wait after this many attempts.
pub(crate) fn delay(attempts: i32) -> Duration {
    RETRY.after(u32::try_from(attempts).unwrap_or(0))
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        if database_is_away(&error) {
            return Self::Away(error);
        }
        if database_is_busy(&error) {
            return Self::Busy(error);
        }
        if is_invalid_value(&error) {
            return Self::Reject(error.to_string());
        }
        Self::Retry(error.into())
    }
}

/// Class 22, data exceptions: the value itself is invalid, and always will be.
/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn is_invalid_value(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code.starts_with("22"))
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

/// For a listener that wraps its errors, with `anyhow` for example. A database error anywhere among the
/// causes decides.
impl From<BoxError> for Failure {
    fn from(error: BoxError) -> Self {
        let mut cause: Option<&(dyn Error + 'static)> = Some(&*error);
        while let Some(known) = cause {
            if let Some(error) = database_error(known) {
                let text = || sqlx::Error::Protocol(chain(known));
                if database_is_away(error) {
                    return Self::Away(text());
                }
                if database_is_busy(error) {
                    return Self::Busy(text());
                }
                if is_invalid_value(error) {
                    return Self::Reject(chain(known));
                }
            }
            cause = known.source();
        }
        Self::Retry(error)
    }
}
