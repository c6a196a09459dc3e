//! What all requests of the operations API share.

use bus::{Bus, ClientId, Pool, Stream};

/// The service behind the operations API.
#[derive(Debug, Clone)]
pub(crate) struct Operations {
    /// Its name.
    pub(crate) service: &'static str,
    /// This replica.
    pub(crate) client_id: ClientId,
    /// The streams that it publishes to.
    pub(crate) streams: &'static [&'static Stream],
    /// The queue groups that it is a member of.
    pub(crate) queue_groups: Vec<&'static str>,
    /// Its database.
    pub(crate) pool: Pool,
    /// Its connection to NATS.
    pub(crate) bus: Bus,
}
