//! `/streaming/storez`: what is stored, and the limits.

use std::collections::BTreeMap;

use async_nats::jetstream::stream::StorageType;
use axum::{Json, extract::State};
use serde::Serialize;

use super::{Answer, Server};
use crate::{Console, sources::nats::StreamReport};

/// STAN's `Storez`.
#[derive(Debug, Serialize)]
pub(super) struct Storez {
    #[serde(flatten)]
    server: Server,
    /// `FILE`, `MEMORY`, or both as `FILE,MEMORY`.
    r#type: String,
    limits: Limits,
    total_msgs: u64,
    total_bytes: u64,
}

/// STAN's `StoreLimits`, by stream: the channels of a stream share its limits.
#[derive(Debug, Serialize)]
struct Limits {
    /// By stream.
    channels: BTreeMap<String, StreamLimits>,
}

/// What a stream may hold; 0 is no limit, as in STAN.
#[derive(Debug, Serialize)]
struct StreamLimits {
    max_msgs: i64,
    max_bytes: i64,
    /// Nanoseconds.
    max_age: u64,
    max_subscriptions: i32,
}

fn limits(stream: &StreamReport) -> StreamLimits {
    let config = &stream.info.config;
    StreamLimits {
        max_msgs: config.max_messages.max(0),
        max_bytes: config.max_bytes.max(0),
        max_age: u64::try_from(config.max_age.as_nanos()).unwrap_or(u64::MAX),
        max_subscriptions: config.max_consumers.max(0),
    }
}

pub(super) async fn storez(State(console): State<Console>) -> Answer<Storez> {
    let (report, varz) = tokio::try_join!(console.nats.report(), console.monitor.varz())?;
    let states = report.streams.iter().map(|stream| &stream.info.state);
    let mut types: Vec<&str> = report
        .streams
        .iter()
        .map(|stream| match stream.info.config.storage {
            StorageType::File => "FILE",
            StorageType::Memory => "MEMORY",
        })
        .collect();
    types.sort_unstable();
    types.dedup();
    let channels =
        report.streams.iter().map(|stream| (stream.info.config.name.clone(), limits(stream)));
    Ok(Json(Storez {
        server: Server::new(&varz.unwrap_or_default(), report.at),
        r#type: types.join(","),
        limits: Limits { channels: channels.collect() },
        total_msgs: states.clone().map(|state| state.messages).sum(),
        total_bytes: states.map(|state| state.bytes).sum(),
    }))
}
