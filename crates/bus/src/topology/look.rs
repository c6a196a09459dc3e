//! Reads the progress of a stream's groups, and single messages.

use async_nats::jetstream::stream::DirectGetErrorKind;
use futures::TryStreamExt;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{TopologyError, away, bounded};
use crate::{connection::Bus, event::Stream};

/// The most groups of a stream that are listed.
const GROUPS: usize = 1_024;

/// The progress of a queue group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupState {
    /// The group's name.
    pub name: String,
    /// Everything up to this sequence has been acknowledged.
    pub acknowledged: u64,
    /// How many events it has not acknowledged.
    pub pending: u64,
}

/// Every queue group of a stream.
///
/// # Errors
/// [`TopologyError::Away`].
pub async fn groups(bus: &Bus, stream: &Stream) -> Result<Vec<GroupState>, TopologyError> {
    let listed = async {
        let stream = bus.jetstream.get_stream_no_info(stream.name).await.map_err(away)?;
        let (mut consumers, mut groups) = (stream.consumers(), Vec::new());
        while let Some(consumer) = consumers.try_next().await.map_err(away)?
            && groups.len() < GROUPS
        {
            // A consumer without a durable name is no group.
            if consumer.config.durable_name.is_some() {
                groups.push(GroupState {
                    acknowledged: consumer.ack_floor.stream_sequence,
                    pending: consumer.num_pending + consumer.num_ack_pending as u64,
                    name: consumer.name,
                });
            }
        }
        Ok(groups)
    };
    bounded(listed).await?
}

/// The header with the id of the publication: each attempt to publish a page has its own.
pub(crate) const PUBLICATION: &str = "Bus-Publication";

/// A message of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredMessage {
    /// Its `Nats-Msg-Id`; empty without one.
    pub(crate) message_id: String,
    /// Its [`PUBLICATION`]; `None` for a message of the previous release, or of others.
    pub(crate) publication: Option<Uuid>,
    /// When the stream stored it.
    pub(crate) stored_at: OffsetDateTime,
}

impl StoredMessage {
    /// Whether it is this event, including a republished copy.
    pub(crate) fn is_event(&self, id: Uuid) -> bool {
        let id = id.to_string();
        let rest = self.message_id.strip_prefix(&id);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
    }
}

/// The message at a sequence. `None` if the stream holds none there.
///
/// # Errors
/// [`TopologyError::Away`].
pub(crate) async fn message(
    bus: &Bus,
    stream: &str,
    sequence: u64,
) -> Result<Option<StoredMessage>, TopologyError> {
    let found = async {
        let stream = bus.jetstream.get_stream_no_info(stream).await.map_err(away)?;
        match stream.direct_get(sequence).await {
            Ok(message) => {
                let header = |name: &str| message.headers.get(name).map(ToString::to_string);
                Ok(Some(StoredMessage {
                    message_id: header("Nats-Msg-Id").unwrap_or_default(),
                    publication: header(PUBLICATION).and_then(|text| text.parse().ok()),
                    stored_at: message.time,
                }))
            }
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
            Err(error) => Err(away(error)),
        }
    };
    bounded(found).await?
}
