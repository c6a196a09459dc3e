//! A stream whose disk was full. nats-server stops writing to it, and does not begin again when there is
//! room: until it is restarted, the stream takes no publish, and loses nothing that it holds.
//!
//! Nothing is concluded from silence. The server is asked to delete a message that cannot be there: while
//! it has stopped writing, it answers with the error that stopped it, and otherwise that there is none.

use std::collections::HashMap;

use async_nats::jetstream::{
    ErrorCode,
    response::Response,
    stream::{Config, Info, StorageType},
};
use serde_json::{Value, json};
use tracing::{debug, info, warn};

use super::{TopologyError, away, bounded};
use crate::{connection::Bus, event::Stream};

/// A sequence that no stream reaches. The server refuses larger ones as numbers that it cannot read.
const NO_SEQUENCE: u64 = i64::MAX.unsigned_abs();
/// What the system says of a disk, or a user's part of it, that is full.
const NO_ROOM: [&str; 3] =
    ["no space left on device", "disk quota exceeded", "disc quota exceeded"];
/// How much room there must be before a stream is made again: below the 128 KiB that the server lets a
/// stream's metadata have. What the stream itself took comes back when it is deleted.
const ROOM: usize = 100_000;

/// The stream, and the server's own words, if it has stopped writing there because the disk was full.
/// `None` as well when the server does not say, such as where the user may not ask.
///
/// In a cluster, such a server turns its JetStream off, and others go on.
pub(crate) async fn stopped_by_full_disk(bus: &Bus, stream: &Stream) -> Option<(Info, String)> {
    let found = bounded(bus.jetstream.get_stream(stream.name)).await.ok()?;
    let info = found.ok()?.cached_info().clone();
    // A server by itself has a cluster without a name.
    let cluster = info.cluster.as_ref().and_then(|cluster| cluster.name.as_deref());
    if cluster.is_some_and(|name| !name.is_empty()) || info.config.storage != StorageType::File {
        return None;
    }
    let asked = json!({ "seq": NO_SEQUENCE, "no_erase": true });
    let subject = format!("STREAM.MSG.DELETE.{}", stream.name);
    let answer: Response<Value> =
        bounded(bus.jetstream.request(subject, &asked)).await.ok()?.ok()?;
    let Response::Err { error } = answer else { return None };
    let words = error.to_string();
    let full = NO_ROOM.iter().any(|no_room| words.contains(no_room));
    full.then_some((info, words))
}

/// Whether the server's disk takes [`ROOM`] bytes: those of a stream that is made for this, and deleted.
///
/// # Errors
/// [`TopologyError::Away`].
pub(crate) async fn has_room(bus: &Bus, stream: &Stream) -> Result<bool, TopologyError> {
    let name = format!("{}_ROOM", stream.name);
    // Left by somebody who died: making it again would write nothing.
    delete(bus, &name).await?;
    let config = Config {
        name: name.clone(),
        subjects: vec![name.clone()],
        storage: StorageType::File,
        max_messages: 1,
        metadata: HashMap::from([("room".to_owned(), "x".repeat(ROOM))]),
        ..Config::default()
    };
    let made = bounded(bus.jetstream.create_stream(config)).await?;
    if let Err(error) = &made {
        debug!(stream = stream.name, %error, "no room to make a stream");
    }
    delete(bus, &name).await?;
    Ok(made.is_ok())
}

/// Deletes a stream and makes it again with the settings that it had.
///
/// # Errors
/// [`TopologyError::Away`] when it cannot be deleted.
pub(crate) async fn remake(bus: &Bus, found: &Info) -> Result<(), TopologyError> {
    delete(bus, &found.config.name).await?;
    // A member of a group may have been faster; and whoever finds none makes it with the bus's settings.
    let made = bounded(bus.jetstream.create_stream(found.config.clone())).await;
    match made.and_then(|made| made.map_err(away)) {
        Ok(_) => info!(stream = found.config.name, "made the stream again"),
        Err(error) => {
            warn!(stream = found.config.name, %error, "the stream's own settings may be lost");
        }
    }
    Ok(())
}

/// Deletes a stream, if it is there.
async fn delete(bus: &Bus, name: &str) -> Result<(), TopologyError> {
    let deleted: Response<Value> =
        bounded(bus.jetstream.request(format!("STREAM.DELETE.{name}"), &json!({})))
            .await?
            .map_err(away)?;
    match deleted {
        Response::Err { error } if error.error_code() != ErrorCode::STREAM_NOT_FOUND => {
            Err(away(error))
        }
        _ => Ok(()),
    }
}
