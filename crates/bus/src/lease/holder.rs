//! Who holds a client id, as it is written in the bucket of leases.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, future::ready, stream::iter};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tracing::debug;
use uuid::Uuid;

use super::{BUCKET, MAX_AGE};
use crate::{client_id::ClientId, connection::Bus, topology};

/// The longest text of a lease, in bytes: the longest name that Kubernetes has, of a node.
const MAX_TEXT: usize = 253;
/// How many queue groups a lease may name. A process of ours is in one.
const MAX_GROUPS: usize = 64;

/// Who holds a client id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The id.
    pub client_id: ClientId,
    /// The service it is of.
    pub service: String,
    /// The queue groups that it is a member of.
    pub queue_groups: Vec<String>,
    /// The node that it runs on; empty when unknown.
    pub node: String,
    /// Since when.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    /// This one process, however it is called.
    pub(super) process: Uuid,
}

impl Holder {
    /// The subject on which exactly this process says that it is alive.
    pub(super) fn alive_subject(&self) -> String {
        format!("_CLIENT.{}.{}", self.client_id, self.process.simple())
    }

    /// Whether its texts can be shown on a person's terminal: none is too long, or moves the cursor.
    fn can_be_shown(&self) -> bool {
        let mut texts = self.queue_groups.iter().chain([&self.service, &self.node]);
        self.queue_groups.len() <= MAX_GROUPS
            && texts.all(|text| text.len() <= MAX_TEXT && !text.contains(char::is_control))
    }

    /// The holder of this id. `None` when the value is no lease on it: whoever may write to the
    /// bucket may write anything there.
    pub(super) fn read(id: &ClientId, value: &[u8]) -> Option<Self> {
        match serde_json::from_slice::<Self>(value) {
            Ok(holder) if holder.client_id != *id => {
                debug!(client.id = %id, "passed over a lease on {}", holder.client_id);
                None
            }
            Ok(holder) if !holder.can_be_shown() => {
                debug!(client.id = %id, "passed over a lease with texts that no process writes");
                None
            }
            Ok(holder) => Some(holder),
            Err(error) => {
                debug!(client.id = %id, %error, "passed over a value that is no lease");
                None
            }
        }
    }
}

/// How many processes are listed.
const MAX_HOLDERS: usize = 10_000;
/// How many leases are read at once.
const AT_ONCE: usize = 32;

/// Every process that holds a lease now, by its client id. What is no lease is passed over. Leaves no
/// consumer behind.
///
/// # Errors
/// When NATS does not answer.
pub async fn holders(bus: &Bus) -> anyhow::Result<BTreeMap<ClientId, Holder>> {
    let bucket = topology::bucket(&bus.jetstream, BUCKET, MAX_AGE, bus.replicas).await?;
    let subjects = bucket.stream.info_with_subjects(format!("{}>", bucket.prefix)).await?;
    let ids = subjects.take(MAX_HOLDERS).try_filter_map(|(subject, _)| {
        let id = subject.strip_prefix(&bucket.prefix).and_then(|key| key.parse::<ClientId>().ok());
        if id.is_none() {
            debug!(subject, "passed over a key that is no client id");
        }
        ready(Ok(id))
    });
    let ids: Vec<ClientId> = ids.try_collect().await?;
    let bucket = &bucket;
    let leases = iter(ids).map(|id| async move {
        let value = bucket.get(id.as_str()).await?;
        let holder = value.and_then(|value| Holder::read(&id, &value));
        anyhow::Ok(holder.map(|holder| (id, holder)))
    });
    leases.buffer_unordered(AT_ONCE).try_filter_map(|holder| ready(Ok(holder))).try_collect().await
}
