//! Why a lease is not held.

use time::format_description::well_known::Rfc3339;

use super::holder::Holder;
use crate::topology::TopologyError;

/// Another process holds the id and is alive.
#[derive(Debug, thiserror::Error)]
#[error(
    "clientID already registered: {} is held by pod {} on node {} since {}",
    holder.client_id, holder.client_id,
    if holder.node.is_empty() { "(unknown)" } else { &holder.node },
    holder.since.format(&Rfc3339).unwrap_or_default()
)]
pub struct ClientIdInUse {
    /// The holder.
    pub holder: Box<Holder>,
}

/// Why a lease is not held.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Another process has the client id: give this one another id, or stop the other.
    #[error(transparent)]
    InUse(#[from] ClientIdInUse),
    /// NATS is unavailable, or the bucket cannot be used: try again.
    #[error("the lease on the client id is unavailable: {0}")]
    Unavailable(String),
}

impl From<TopologyError> for LeaseError {
    fn from(error: TopologyError) -> Self {
        unavailable(error)
    }
}

pub(super) fn unavailable(error: impl std::fmt::Display) -> LeaseError {
    LeaseError::Unavailable(error.to_string())
}
