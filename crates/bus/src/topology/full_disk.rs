//! A stream whose disk was full. nats-server stops writing to it and does not resume when there is room. Until a
//! restart, the stream rejects publishes and keeps what it holds.
//!
//! The bus does not guess from silence. It asks the server to delete a message that cannot exist: a server that has
//! stopped writing answers with the error that stopped it, any other with "no message found".

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

/// A sequence that no stream reaches. The server cannot parse larger numbers.
const NO_SEQUENCE: u64 = i64::MAX.unsigned_abs();
/// The operating system's errors for a full disk or quota.
const NO_ROOM: [&str; 3] =
    ["no space left on device", "disk quota exceeded", "disc quota exceeded"];
/// How many bytes must be free before a stream is recreated: below the server's limit of 128 KiB for a stream's
/// metadata. Deleting the stream frees its own space.
const ROOM: usize = 100_000;

/// The stream and the server's error, if the server stopped writing to it because the disk was full. Also `None` if
/// the server does not tell, for example because the user may not ask.
///
/// In a cluster, such a server disables its JetStream, and others take over.
pub(crate) async fn stopped_by_full_disk(bus: &Bus, stream: &Stream) -> Option<(Info, String)> {
    let found = bounded(bus.jetstream.get_stream(stream.name)).await.ok()?;
    let info = found.ok()?.cached_info().clone();
    // A standalone server reports a cluster without a name.
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

/// Whether the server's disk has [`ROOM`] bytes free: creates a stream of that size and deletes it.
///
/// # Errors
/// [`TopologyError::Away`].
pub(crate) async fn has_room(bus: &Bus, stream: &Stream) -> Result<bool, TopologyError> {
    let name = format!("{}_ROOM", stream.name);
    // Left by a process that died: creating it again would write nothing.
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
        debug!(stream = stream.name, %error, "no room to create a stream");
    }
    delete(bus, &name).await?;
    Ok(made.is_ok())
}

/// Deletes a stream and creates it again with the same settings.
///
/// # Errors
/// [`TopologyError::Away`] if it cannot be deleted.
pub(crate) async fn remake(bus: &Bus, found: &Info) -> Result<(), TopologyError> {
    delete(bus, &found.config.name).await?;
    // A process that finds it missing in between creates it with the bus's default settings.
    let made = bounded(bus.jetstream.create_stream(found.config.clone())).await;
    match made.and_then(|made| made.map_err(away)) {
        Ok(_) => info!(stream = found.config.name, "recreated the stream"),
        Err(error) => {
            warn!(stream = found.config.name, %error, "could not recreate the stream, its custom settings may be lost");
        }
    }
    Ok(())
}

/// Deletes a stream if it exists.
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
