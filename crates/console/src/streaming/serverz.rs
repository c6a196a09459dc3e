//! `/streaming/serverz`: the server as a whole.

use axum::{Json, extract::State};
use serde::Serialize;

use super::{Answer, Server};
use crate::Console;

/// STAN's `Serverz`.
#[derive(Debug, Serialize)]
pub(super) struct Serverz {
    #[serde(flatten)]
    server: Server,
    version: String,
    go: String,
    state: &'static str,
    start_time: String,
    uptime: String,
    clients: usize,
    subscriptions: usize,
    channels: usize,
    total_msgs: u64,
    total_bytes: u64,
    in_msgs: i64,
    in_bytes: i64,
    out_msgs: i64,
    out_bytes: i64,
}

pub(super) async fn serverz(State(console): State<Console>) -> Answer<Serverz> {
    let (report, varz) = tokio::try_join!(console.nats.report(), console.monitor.varz())?;
    let varz = varz.unwrap_or_default();
    let states = report.streams.iter().map(|stream| &stream.info.state);
    let subjects = report.streams.iter().map(|stream| stream.info.config.subjects.len());
    Ok(Json(Serverz {
        server: Server::new(&varz, report.at),
        state: if varz.cluster.name.is_empty() { "STANDALONE" } else { "CLUSTERED" },
        clients: report.holders.len(),
        subscriptions: report.holders.iter().map(|holder| holder.queue_groups.len()).sum(),
        channels: subjects.sum(),
        total_msgs: states.clone().map(|state| state.messages).sum(),
        total_bytes: states.map(|state| state.bytes).sum(),
        version: varz.version,
        go: varz.go,
        start_time: varz.start,
        uptime: varz.uptime,
        in_msgs: varz.in_msgs,
        in_bytes: varz.in_bytes,
        out_msgs: varz.out_msgs,
        out_bytes: varz.out_bytes,
    }))
}
