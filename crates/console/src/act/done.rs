//! The result of breaking something.

use std::time::Duration;

/// What was done, and how long it lasts.
pub(super) type Done = Result<(String, Duration), NotDone>;

/// Why nothing was broken.
pub(super) enum NotDone {
    /// The request is invalid, whatever the state of the system.
    Invalid(String),
    /// Not possible in the present state of the system.
    Conflict(String),
    /// NATS or the operating system failed.
    Failed(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for NotDone {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}
