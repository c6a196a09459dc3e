//! Cuts a process of a service off from NATS or Postgres for some seconds, in a system that `cargo run -- --cuttable`
//! started: it reads the request from this process's log, and its links stop passing bytes on.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::done::{Done, NotDone};
use crate::Console;

/// The longest cut, and how long one is by default.
pub(crate) const MAX_SECONDS: u64 = 60;
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
pub(super) async fn cut(
    console: &Console,
    what: &str,
    from: Option<Server>,
    seconds: Option<u64>,
) -> Done {
    if !console.cuttable {
        return Err(NotDone::Conflict(
            "No link can be cut: start the system with `cargo run -- --cuttable`.".to_owned(),
        ));
    }
    let invalid = |why: &str| NotDone::Invalid(why.to_owned());
    let seconds = seconds.unwrap_or(DEFAULT_SECONDS);
    if !(1..=MAX_SECONDS).contains(&seconds) {
        return Err(invalid(&format!("A cut lasts 1 to {MAX_SECONDS} seconds.")));
    }
    let from = from.ok_or_else(|| invalid("`from` is missing: nats or postgres."))?;
    let known = console.services.directory.on_this_machine().await;
    if !known.contains_key(what) {
        return Err(invalid("Only a process of a service can be cut off."));
    }
    let (server, name) = from.names();
    warn!(
        notice = "cut",
        cut.process = what,
        cut.server = server,
        cut.seconds = seconds,
        "requesting a cut"
    );
    Ok((format!("cut {what} off from {name} for {seconds} s"), Duration::from_secs(seconds)))
}
