//! Breaks a part of a system that `cargo run` has brought up on this machine, to see that nothing is lost.

use std::path::Path;

use anyhow::{Context, bail, ensure};
use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use common::pod::problem::Problem;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tracing::warn;

use super::{REQUEST_TIMEOUT, failed, send};
use crate::Console;

/// What to do to it.
#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum How {
    /// SIGKILL. `cargo run` starts it again.
    Kill,
    /// SIGSTOP: it is there, and does nothing.
    Freeze,
    /// SIGCONT.
    Thaw,
    /// An event that nobody can read, in this stream.
    Poison,
    /// The stream is deleted, with all that it holds.
    Wipe,
}

/// What is to be broken.
#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    how: How,
    /// A process (`orders-2`, `nats`, `postgres`), or a stream (`TICKETS`).
    what: String,
}

pub(super) async fn break_it(
    State(console): State<Console>,
    Json(wanted): Json<Wanted>,
) -> Response {
    let Some(folder) = console.data_folder.clone() else {
        let detail = "Only a system started by `cargo run` on this machine can be broken here.";
        return Problem::new(StatusCode::FORBIDDEN, detail).into_response();
    };
    let Wanted { how, what } = wanted;
    let done = match how {
        How::Kill => signal(&folder, &what, Signal::KILL).await,
        How::Freeze => signal(&folder, &what, Signal::STOP).await,
        How::Thaw => signal(&folder, &what, Signal::CONT).await,
        How::Poison => poison(&console, &what).await,
        How::Wipe => wipe(&console, &what).await,
    };
    match done {
        Ok(said) => {
            warn!(?how, what, "broken on purpose");
            Json(json!({ "status": 200, "body": { "said": said } })).into_response()
        }
        Err(error) => failed(&error),
    }
}

/// Signals a process of the system by the file that has its id.
async fn signal(folder: &Path, part: &str, signal: Signal) -> anyhow::Result<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-';
    ensure!(!part.is_empty() && part.chars().all(fits), "there is no such process");
    let text = tokio::fs::read_to_string(folder.join(format!("{part}.pid"))).await;
    let pid = text.ok().and_then(|text| Pid::from_raw(text.trim().parse().ok()?));
    let pid = pid.with_context(|| format!("{part} is not running"))?;
    kill_process(pid, signal).with_context(|| format!("{part}, process {pid}"))?;
    Ok(format!("signalled {part}, process {pid}"))
}

async fn subjects(console: &Console, stream: &str) -> anyhow::Result<Vec<String>> {
    let report = console.nats.report().await?;
    let mut configs = report.streams.into_iter().map(|stream| stream.info.config);
    match configs.find(|config| config.name == stream) {
        Some(config) => Ok(config.subjects),
        None => bail!("there is no stream {stream}"),
    }
}

async fn poison(console: &Console, stream: &str) -> anyhow::Result<String> {
    let subject = subjects(console, stream).await?.into_iter().next();
    let subject = subject.context("the stream stores no subject")?;
    let sequence = send(console, subject, "no event".to_owned()).await?;
    Ok(format!("published #{sequence}, which cannot be decoded and becomes a dead letter"))
}

async fn wipe(console: &Console, stream: &str) -> anyhow::Result<String> {
    subjects(console, stream).await?;
    let deleted = console.nats.bus().jetstream.delete_stream(stream);
    let deleted = tokio::time::timeout(REQUEST_TIMEOUT, deleted);
    deleted.await.context("NATS did not answer in time")??;
    Ok(format!("deleted {stream}; its service recreates it and refills it from Postgres"))
}
