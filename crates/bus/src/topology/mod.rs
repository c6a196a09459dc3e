//! What must exist on the server: streams, queue groups, buckets. Made if missing, checked if
//! there, in this one place.

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

/// How long a stream keeps an event: the time that a group may be away, or a new one look back.
pub const STREAM_MAX_AGE: Duration = Duration::from_secs(14 * 24 * 3600);
/// How long the server remembers a `Nats-Msg-Id`. Economy only: the inbox is the guarantee.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// How long a member may keep an event before another gets it. Short, because a dead member's
/// events wait this long; a live one says every second that it is still at work.
pub const ACK_WAIT: Duration = Duration::from_secs(8);
/// How many events of a group may be unacknowledged at once, over all its members: dozens of
/// members with full hands, and those that wait for another try.
const MAX_ACK_PENDING: i64 = 20_000;

/// Why the topology is not as it must be.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// The server did not answer, or not yet: try again.
    #[error("NATS is not ready: {0}")]
    Away(String),
    /// Something of that name exists and is something else: a person must look.
    #[error("{what} exists on the server and cannot serve: {why}")]
    Drift {
        /// What it is.
        what: String,
        /// What differs, and how to mend it.
        why: String,
    },
    /// It is in another's account and for a provisioner to make; look again, as it may do so any time.
    #[error("{what} is not there yet: {why}")]
    Missing {
        /// What it is.
        what: String,
        /// Who is to make it, or what keeps this process from it.
        why: String,
    },
}

/// Makes sure of a bucket that forgets a key `max_age` after it was last written. Kept in memory:
/// what is in it is renewed by its owners within seconds.
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
