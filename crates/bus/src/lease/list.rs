//! Lists the processes that hold a lease.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, future::ready, stream::iter};
use tracing::debug;

use super::{
    BUCKET, MAX_AGE,
    error::{LeaseError, unavailable},
    holder::Holder,
};
use crate::{client_id::ClientId, connection::Bus, topology};

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
