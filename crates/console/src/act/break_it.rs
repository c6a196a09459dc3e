//! Breaks a part of a system that `cargo run` started on this machine, to see that nothing is lost.

use std::{path::Path, time::Duration};

use anyhow::Context;
use async_nats::jetstream::message::PublishMessage;
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

use super::{
    cut::{self, Server},
    done::{Done, NotDone},
    failed,
    publish::{REQUEST_TIMEOUT, send},
};
use crate::Console;

/// How to break it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum How {
    /// SIGKILL. `cargo run` starts it again.
    Kill,
    /// SIGSTOP: the process exists but does nothing.
    Freeze,
    /// SIGCONT.
    Thaw,
    /// No bytes pass between the process and a server for a while.
    Cut,
    /// Publishes an event that cannot be decoded.
    Poison,
    /// Deletes the stream and everything in it.
    Wipe,
}

/// What to break, and how.
#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    how: How,
    /// A process (`orders-2`, `nats`, `postgres`), or a stream (`TICKETS`).
    what: String,
    /// The server to cut the process off from, and for how long.
    from: Option<Server>,
    seconds: Option<u64>,
}

pub(super) async fn break_it(
    State(console): State<Console>,
    Json(wanted): Json<Wanted>,
) -> Response {
    let Some(folder) = console.data_folder.clone() else {
        let detail = "Only a system started by `cargo run` on this machine can be broken here.";
        return Problem::new(StatusCode::FORBIDDEN, detail).into_response();
    };
    let Wanted { how, ref what, from, seconds } = wanted;
    let done = match how {
        How::Kill => signal(&folder, what, Signal::KILL).await,
        How::Freeze => signal(&folder, what, Signal::STOP).await,
        How::Thaw => signal(&folder, what, Signal::CONT).await,
        How::Cut => cut::cut(&console, what, from, seconds).await,
        How::Poison => poison(&console, what).await,
        How::Wipe => wipe(&console, what).await,
    };
    match done {
        Ok((said, lasts)) => {
            warn!(?how, what, "broken on purpose");
            // A thaw ends the experiment that began with a freeze.
            if how != How::Thaw {
                console.experiments.begin(said.clone(), lasts);
            }
            Json(json!({ "status": 200, "body": { "said": said } })).into_response()
        }
        Err(NotDone::Invalid(why)) => {
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, why).into_response()
        }
        Err(NotDone::Conflict(why)) => Problem::new(StatusCode::CONFLICT, why).into_response(),
        Err(NotDone::Failed(error)) => failed(&error),
    }
}

/// Sends a signal to a process of the system, found by its pid file.
async fn signal(folder: &Path, part: &str, signal: Signal) -> Done {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if part.is_empty() || !part.chars().all(fits) {
        return Err(NotDone::Invalid("There is no such process.".to_owned()));
    }
    let text = tokio::fs::read_to_string(folder.join(format!("{part}.pid"))).await;
    let pid = text.ok().and_then(|text| Pid::from_raw(text.trim().parse().ok()?));
    let pid = pid.ok_or_else(|| NotDone::Conflict(format!("{part} is not running.")))?;
    kill_process(pid, signal).with_context(|| format!("{part}, process {pid}"))?;
    let did = match signal {
        Signal::KILL => "killed",
        Signal::STOP => "froze",
        _ => "thawed",
    };
    Ok((format!("{did} {part}, process {pid}"), Duration::ZERO))
}

async fn subjects(console: &Console, stream: &str) -> Result<Vec<String>, NotDone> {
    let report = console.nats.report().await?;
    let mut configs = report.streams.into_iter().map(|stream| stream.info.config);
    match configs.find(|config| config.name == stream) {
        Some(config) => Ok(config.subjects),
        None => Err(NotDone::Conflict(format!("There is no stream {stream}."))),
    }
}

async fn poison(console: &Console, stream: &str) -> Done {
    let subject = subjects(console, stream).await?.into_iter().next();
    let subject = subject.context("the stream has no subjects")?;
    let message = PublishMessage::build().payload("no event".into());
    let sequence = send(console, subject, message).await?;
    let did = format!(
        "published #{sequence} in {stream}, which cannot be decoded and becomes a dead letter"
    );
    Ok((did, Duration::ZERO))
}

async fn wipe(console: &Console, stream: &str) -> Done {
    subjects(console, stream).await?;
    let deleted = console.nats.bus().jetstream.delete_stream(stream);
    let deleted = tokio::time::timeout(REQUEST_TIMEOUT, deleted);
    deleted.await.context("NATS did not answer in time")??;
    let did = format!("deleted {stream}; its service recreates it and refills it from Postgres");
    Ok((did, Duration::ZERO))
}
