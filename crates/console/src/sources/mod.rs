//! What the console asks, how often, and how long it waits for an answer.

pub mod monitor;
pub mod nats;

use std::time::Duration;

/// How long an answer is waited for. What is silent for longer counts as frozen.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
