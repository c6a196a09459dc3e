//! Why a relay's turn ended.

use async_nats::jetstream::context::RequestError;

use super::publish::PublishError;
use crate::{error::database_is_gone, topology::TopologyError};

/// Why a relay's turn ended. It pauses, then waits for another turn.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RelayError {
    /// Any database error.
    #[error("database error: {0}")]
    Database(#[from] sqlx::Error),
    /// The stream is not as it must be.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// The stream did not confirm events.
    #[error("publishing failed: {0}")]
    Publish(#[from] PublishError),
    /// JetStream did not answer.
    #[error("JetStream does not answer: {0}")]
    Request(#[from] RequestError),
    /// The session that holds the lock is gone.
    #[error("this relay has lost its turn")]
    NoTurn,
    /// Another process has written the cursor.
    #[error("another process has written the stream's progress")]
    Overtaken,
    /// The stream was not verified during this turn.
    #[error("the stream is not verified")]
    Unverified,
    /// A sequence beyond the range of a Postgres `bigint`.
    #[error("a number is out of range: {0}")]
    Number(#[from] std::num::TryFromIntError),
}

impl RelayError {
    /// Whether an outage of NATS or Postgres may explain it.
    pub(super) fn may_be_an_outage(&self) -> bool {
        match self {
            Self::Database(error) => database_is_gone(error),
            Self::Topology(TopologyError::Away(_)) | Self::Request(_) | Self::NoTurn => true,
            Self::Publish(error) => error.may_be_an_outage(),
            Self::Topology(_) | Self::Overtaken | Self::Unverified | Self::Number(_) => false,
        }
    }
}
