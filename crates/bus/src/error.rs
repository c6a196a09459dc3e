//! Errors of outgoing events, and how a caller should treat a database error.

use std::{any::Any, error::Error, fmt::Write};

use crate::envelope;

/// Any error, as a listener or a task may return it.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Why an event could not be put into the outbox, by what the caller can do.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// Any database error: roll back, and retry if [`database_is_away`].
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// The event does not serialize: a bug in its type.
    #[error("the event does not serialize: {0}")]
    Serialize(#[from] serde_json::Error),
    /// The event is larger than [`envelope::MAX_BYTES`]: a bug in its type, which should have bounds.
    #[error("the event has {0} bytes, the limit is {max}", max = envelope::MAX_BYTES)]
    TooLarge(usize),
}

/// The database error that this error is or wraps. [`BusError`] is transparent, so its source is not the database
/// error but that one's source.
#[must_use]
pub fn database_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a sqlx::Error> {
    match error.downcast_ref::<BusError>() {
        Some(BusError::Database(error)) => Some(error),
        _ => error.downcast_ref(),
    }
}

/// The message of a panic that was caught.
#[must_use]
pub fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

/// Whether the database is unreachable or cannot serve any statement now. The same statement may
/// succeed later.
#[must_use]
pub fn database_is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::Protocol(_) => true,
        // Class 08: connection exceptions. 57P: the server is stopping, starting, or closed the
        // connection. 53100, 53300: disk full, too many connections. 25006: read-only, because a standby
        // was promoted elsewhere. 25P03: idle in transaction for too long, as after a pause.
        // <https://www.postgresql.org/docs/current/errcodes-appendix.html>
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            code.starts_with("08")
                || code.starts_with("57P")
                || matches!(&*code, "53100" | "53300" | "25006" | "25P03")
        }),
        _ => false,
    }
}

/// Whether the database cannot be reached at all: an outage, which the task that watches the database also logs.
/// In the other cases of [`database_is_away`], such as a full disk, it may answer queries.
#[must_use]
pub fn database_is_gone(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::Protocol(_) => true,
        sqlx::Error::Database(error) => {
            error.code().is_some_and(|code| code.starts_with("08") || code.starts_with("57P"))
        }
        _ => false,
    }
}

/// Whether the database serves, but cannot run this statement now: a lock or a resource it needs is
/// taken. The same statement may succeed later, and other statements may succeed now.
#[must_use]
pub fn database_is_busy(error: &sqlx::Error) -> bool {
    // 55P03: lock timeout. 57014: statement timeout, or cancelled by an operator. 25P04: transaction
    // timeout. 40: deadlock or serialization failure. 53: out of memory, or above a limit such as that
    // for temporary files. 58: an error of the server's disk or operating system.
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| {
        matches!(&*code, "55P03" | "57014" | "25P04" | "53000" | "53200" | "53400")
            || code.starts_with("40")
            || code.starts_with("58")
    })
}

/// Whether a statement hit its `lock_timeout`.
pub(crate) fn is_locked(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.code().as_deref() == Some("55P03"))
}

/// An error with its causes, on one line. A cause that the error already repeats is left out.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            let _ = write!(text, ": {cause_text}");
        }
        source = cause.source();
    }
    text
}
