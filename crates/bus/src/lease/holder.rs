//! The holder of a client id, as stored in the bucket of leases.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, future::ready, stream::iter};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tracing::debug;
use uuid::Uuid;

use super::{
    BUCKET, MAX_AGE,
    error::{LeaseError, unavailable},
};
use crate::{client_id::ClientId, connection::Bus, shown::is_active, topology};

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
    /// Since when it holds the id.
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

/// How many processes are listed.
const MAX_HOLDERS: usize = 10_000;
/// How many leases are read at once.
const AT_ONCE: usize = 32;

/// Every process that holds a lease now, by its client id; 10,000 at most. Values that are no lease are
/// ignored. Leaves no consumer behind.
///
/// # Errors
/// NATS is unavailable, or the bucket cannot be used.
pub async fn holders(bus: &Bus) -> Result<BTreeMap<ClientId, Holder>, LeaseError> {
    let replicas = bus.options.stream_replicas;
    let bucket = topology::bucket(&bus.jetstream, BUCKET, MAX_AGE, replicas).await?;
    let all = format!("{}>", bucket.prefix);
    let subjects = bucket.stream.info_with_subjects(all).await.map_err(unavailable)?;
    let ids = subjects.take(MAX_HOLDERS).try_filter_map(|(subject, _)| {
        let id = subject.strip_prefix(&bucket.prefix).and_then(|key| key.parse::<ClientId>().ok());
        if id.is_none() {
            debug!(subject, "ignored a key that is no client id");
        }
        ready(Ok(id))
    });
    let ids: Vec<ClientId> = ids.try_collect().await.map_err(unavailable)?;
    let bucket = &bucket;
    let leases = iter(ids).map(|id| async move {
        let value = bucket.get(id.as_str()).await.map_err(unavailable)?;
        let holder = value.and_then(|value| Holder::read(&id, &value));
        Ok(holder.map(|holder| (id, holder)))
    });
    leases.buffer_unordered(AT_ONCE).try_filter_map(|holder| ready(Ok(holder))).try_collect().await
}
