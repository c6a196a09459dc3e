//! The bus: how an event leaves the transaction that made it true, and takes effect exactly once
//! in every service that wants it.
//!
//! Out: [`outbox::put`] in the cause's transaction, then the [`relay`] publishes. In: the
//! [`delivery`] loop pulls, opens a transaction, asks the [`inbox`] what is new, calls the
//! [`Listener`](listener::Listener), commits, and acknowledges. What cannot succeed becomes one of the
//! [`dead_letters`].

mod answer;
mod attempts;
mod batch;
mod claim;
pub mod client_id;
pub mod connection;
pub mod dead_letters;
pub mod delivery;
mod effect;
pub mod envelope;
pub mod event;
mod imports;
mod in_flight;
pub mod inbox;
pub mod lease;
pub mod listener;
mod log;
mod measured;
mod new_dead_letter;
pub mod outbox;
pub mod pool;
pub mod provision;
mod pull;
pub mod relay;
pub mod rfc3339;
mod server_version;
mod session;
mod shown;
pub mod shutdown;
mod split;
pub mod topology;
pub mod trace;
mod undeliverable;
mod upkeep;
pub mod user;
pub mod watch;

pub use client_id::{ClientId, ClientIdError};
pub use connection::{Bus, ConnectionState, Options};
pub use delivery::Delivery;
pub use envelope::{Envelope, EnvelopeError};
pub use event::{DecodeError, Event, EventSet, Stream};
pub use lease::{ClientIdInUse, Holder, Lease};
pub use listener::{Failure, Listener, Received};
pub use measured::describe_metrics;
pub use outbox::OutboxEvent;
pub use pool::Pool;
pub use relay::{Relay, Wake};
pub use shown::{shown, shown_json, without_passwords};
pub use shutdown::Shutdown;
pub use topology::TopologyError;
pub use trace::{TraceContext, TraceContextError};
pub use user::{Proof, Seed, SeedError, User};
pub use watch::Readiness;

use sqlx::{PgPool, migrate::Migrator};

/// What went wrong on the bus, by what the caller can do.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The database failed: roll back, and try again if [`database_is_away`].
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// An event did not serialize: a bug of its type.
    #[error("an event does not serialize: {0}")]
    Serialize(#[from] serde_json::Error),
    /// An event is larger than [`outbox::MAX_BYTES`]: a bug of its type, which should have bounds.
    #[error("an event of {0} bytes is larger than {max}", max = outbox::MAX_BYTES)]
    TooLarge(usize),
}

/// Whether the database cannot be reached or cannot serve now, so that the same statement may
/// well succeed later.
#[must_use]
pub fn database_is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::Protocol(_) => true,
        // Class 08: connection exceptions. 57P: the server is stopping, starting, or has ended the
        // connection. 53100, 53300: no room on its disk, no connection left. 25006: a standby was
        // promoted elsewhere. 25P03: idle in transaction for too long, as after a pause.
        // <https://www.postgresql.org/docs/current/errcodes-appendix.html>
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            code.starts_with("08")
                || code.starts_with("57P")
                || matches!(&*code, "53100" | "53300" | "25006" | "25P03")
        }),
        _ => false,
    }
}

/// Whether a lock was not to be had within the statement's `lock_timeout`.
pub(crate) fn is_locked(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.code().as_deref() == Some("55P03"))
}

/// Whether the database serves, but not this statement now: what it needs is locked or exhausted. The
/// same statement may well succeed later, and others now.
#[must_use]
pub fn database_is_busy(error: &sqlx::Error) -> bool {
    // 55P03: a lock was not to be had in time. 57014: the statement took too long, or a person has
    // cancelled it. 25P04: the transaction took too long. 40: deadlock, or a conflict of serializable
    // transactions. 53: out of memory, or above a limit such as that of temporary files. 58: its disk
    // or operating system failed it.
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| {
        matches!(&*code, "55P03" | "57014" | "25P04" | "53000" | "53200" | "53400")
            || code.starts_with("40")
            || code.starts_with("58")
    })
}

/// Text as Postgres can hold it: neither `text` nor `jsonb` knows NUL.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// How much of a reason is kept, in characters. It may quote a message, and that may be a megabyte.
const REASON: usize = 1000;

/// A reason as it is kept.
fn shortened(reason: &str) -> String {
    let kept = storable(reason);
    match kept.char_indices().nth(REASON) {
        Some((end, _)) => format!("{}…", &kept[..end]),
        None => kept,
    }
}

/// A time without what Postgres does not keep of it.
#[must_use]
pub fn to_microseconds(at: time::OffsetDateTime) -> time::OffsetDateTime {
    at - std::time::Duration::from_nanos(u64::from(at.nanosecond() % 1000))
}

/// Makes or updates the schema `bus`. Idempotent, and safe from several processes at once. A schema
/// that a newer release has already migrated is left as it is: the release before runs on it.
///
/// # Errors
/// Any database error, or a migration that was edited after it was applied.
pub async fn migrate(pool: &PgPool) -> anyhow::Result<()> {
    let mut migrator: Migrator = sqlx::migrate!();
    migrator.set_ignore_missing(true);
    // A service has migrations of its own in `public`; each set keeps its own account.
    migrator.create_schema("bus");
    migrator.dangerous_set_table_name("bus.migrations");
    migrator.run(pool).await?;
    Ok(())
}
