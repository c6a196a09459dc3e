//! The holder of a client id, as stored in the bucket of leases.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tracing::debug;
use uuid::Uuid;

use crate::{client_id::ClientId, shown::is_active};

/// The longest text of a lease, in bytes: the longest Kubernetes name, that of a node.
const MAX_TEXT: usize = 253;
/// How many queue groups a lease may name.
const MAX_GROUPS: usize = 64;

/// The process that holds a client id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The id.
    pub client_id: ClientId,
    /// Its service.
    pub service: String,
    /// The queue groups that it is a member of.
    pub queue_groups: Vec<String>,
    /// The node that it runs on; empty when unknown.
    pub node: String,
    /// When it took the id.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    /// Identifies this exact process, even if another one takes its name.
    pub(super) process: Uuid,
}

impl Holder {
    /// The subject on which exactly this process answers liveness checks.
    pub(super) fn alive_subject(&self) -> String {
        format!("_CLIENT.{}.{}", self.client_id, self.process.simple())
    }

    /// Whether its texts are safe to print on a terminal: none is too long or has a character that a terminal
    /// acts on.
    fn can_be_shown(&self) -> bool {
        let mut texts = self.queue_groups.iter().chain([&self.service, &self.node]);
        self.queue_groups.len() <= MAX_GROUPS
            && texts.all(|text| text.len() <= MAX_TEXT && !text.contains(is_active))
    }

    /// The holder of this id. `None` if the value is no lease on it: others may write anything to the bucket.
    pub(super) fn read(id: &ClientId, value: &[u8]) -> Option<Self> {
        match serde_json::from_slice::<Self>(value) {
            Ok(holder) if holder.client_id != *id => {
                debug!(client.id = %id, "ignored a lease on {}", holder.client_id);
                None
            }
            Ok(holder) if !holder.can_be_shown() => {
                debug!(client.id = %id, "ignored a lease with unsafe texts");
                None
            }
            Ok(holder) => Some(holder),
            Err(error) => {
                debug!(client.id = %id, %error, "ignored a value that is no lease");
                None
            }
        }
    }
}
