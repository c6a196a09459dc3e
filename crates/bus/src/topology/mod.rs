//! The streams, queue groups and buckets on the server: created if missing, corrected if edited.

mod config;
mod consumers;
mod full_disk;
mod look;
mod refusal;
mod streams;

use std::{future::Future, time::Duration};

use async_nats::jetstream::{Context, kv, stream::StorageType};
use tokio::time::timeout;

pub(crate) use consumers::Group;
pub(crate) use full_disk::{has_room, remake, stopped_by_full_disk};
pub use look::{GroupState, groups};
pub(crate) use look::{PUBLICATION, message};
pub(crate) use refusal::Refusal;
pub(crate) use streams::look_at;
pub use streams::{StreamState, stream};

use crate::connection::REQUEST_TIMEOUT;

/// How long the server remembers a `Nats-Msg-Id`. It only saves work: the inbox guarantees that an event takes
/// effect once.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// Why a stream, group or bucket is unusable.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// The server did not answer: try again.
    #[error("NATS is unavailable: {0}")]
    Away(String),
    /// It exists with settings that the bus cannot correct: an operator must.
    #[error("{what} exists on the server but is unusable: {why}")]
    Drift {
        /// What it is.
        what: String,
        /// What differs, and how to correct it.
        why: String,
    },
    /// It does not exist yet, and another process creates it: try again.
    #[error("{what} is not there yet: {why}")]
    Missing {
        /// What it is.
        what: String,
        /// Who creates it, or why this process cannot see it.
        why: String,
    },
}

/// Ensures a bucket whose keys expire `max_age` after their last write. It is stored in memory, because the owners
/// of its keys renew them within seconds.
///
/// # Errors
/// [`TopologyError::Away`].
pub async fn bucket(
    jetstream: &Context,
    name: &str,
    max_age: Duration,
    replicas: usize,
) -> Result<kv::Store, TopologyError> {
    if let Ok(store) = jetstream.get_key_value(name).await {
        return Ok(store);
    }
    let config = kv::Config {
        bucket: name.to_owned(),
        history: 1,
        max_age,
        storage: StorageType::Memory,
        num_replicas: replicas,
        ..kv::Config::default()
    };
    jetstream.create_key_value(config).await.map_err(away)
}

fn away(error: impl std::fmt::Display) -> TopologyError {
    TopologyError::Away(error.to_string())
}

async fn bounded<T>(asked: impl Future<Output = T>) -> Result<T, TopologyError> {
    timeout(REQUEST_TIMEOUT, asked).await.map_err(|_| away("no answer in time"))
}
