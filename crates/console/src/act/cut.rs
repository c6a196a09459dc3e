//! Cuts a process of a service off from NATS or Postgres for some seconds, in a system that `cargo run -- --cuttable`
//! started: it reads the request from this process's log, and its links stop passing bytes on.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::break_it::Wanted;
use crate::Console;

/// The longest cut, and how long one is by default.
const MAX_SECONDS: u64 = 60;
const DEFAULT_SECONDS: u64 = 20;

/// What a process can be cut off from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Server {
    Nats,
    Postgres,
}

impl Server {
    /// Its name in a request to `cargo run`, and the name to show.
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Nats => ("nats", "NATS"),
            Self::Postgres => ("postgres", "Postgres"),
        }
    }
}

/// Requests a cut. Returns a description of it, and how long it lasts.
pub(super) async fn cut(console: &Console, wanted: &Wanted) -> anyhow::Result<(String, Duration)> {
    ensure!(
        console.cuttable,
        "this system has no links that can be cut: start it with `cargo run -- --cuttable`"
    );
    let Wanted { what, from, seconds, .. } = wanted;
    let seconds = seconds.unwrap_or(DEFAULT_SECONDS);
    ensure!((1..=MAX_SECONDS).contains(&seconds), "a cut lasts 1 to {MAX_SECONDS} seconds");
    let from = from.context("`from` is missing: nats or postgres")?;
    let known = console.services.directory.on_this_machine().await;
    ensure!(known.contains_key(what), "only a process of a service can be cut off");
    let (server, name) = from.names();
    warn!(
        notice = "cut",
        cut.process = what,
        cut.server = server,
        cut.seconds = seconds,
        "asking for a link to be cut"
    );
    Ok((format!("cut {what} off from {name} for {seconds} s"), Duration::from_secs(seconds)))
}
