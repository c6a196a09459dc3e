//! The state of a process, from its answer at `/readyz` or its silence.

use std::collections::BTreeMap;

use reqwest::{Client, Url};
use serde::{Deserialize, Serialize};

use super::monitor::body;

/// The largest reason for not being ready, in bytes. It is sent to every viewer twice a second.
const LARGEST_REASON: usize = 16 * 1024;

/// The state of a server or process, as far as can be told from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It answers, and is ready.
    Ready,
    /// It answers that it is not ready.
    NotReady,
    /// It cannot be reached.
    Down,
    /// It is there, but does not answer.
    Frozen,
}

impl State {
    /// Whether it answers, so that its numbers are current.
    #[must_use]
    pub fn answers(self) -> bool {
        matches!(self, Self::Ready | Self::NotReady)
    }
}

#[derive(Debug, Deserialize)]
struct Readiness {
    gates: BTreeMap<String, Gate>,
}

#[derive(Debug, Deserialize)]
struct Gate {
    ready: bool,
    #[serde(default)]
    reason: String,
}

/// The state of the process at this address, and why it is not ready. Waits as long as the client does.
pub async fn readiness(client: &Client, address: &Url) -> (State, String) {
    let Ok(url) = address.join("readyz") else { return (State::Down, String::new()) };
    let answer = match client.get(url).send().await {
        Ok(answer) => answer,
        Err(error) if error.is_timeout() => {
            return (State::Frozen, "it does not answer".to_owned());
        }
        Err(_) => return (State::Down, "cannot connect to its address".to_owned()),
    };
    if answer.status().is_success() {
        return (State::Ready, String::new());
    }
    let status = answer.status();
    let gates = body(answer, LARGEST_REASON).await.ok();
    let gates = gates.and_then(|body| serde_json::from_slice::<Readiness>(&body).ok());
    let closed = gates.into_iter().flat_map(|readiness| readiness.gates);
    let why: Vec<String> = closed
        .filter(|(_, gate)| !gate.ready)
        .map(|(name, gate)| format!("{name}: {}", gate.reason))
        .collect();
    (State::NotReady, if why.is_empty() { format!("it answers {status}") } else { why.join("; ") })
}
