//! What the console asks, how often, and how long it waits for an answer.

pub mod monitor;
pub mod nats;
pub mod readiness;
pub mod replicas;
pub mod samples;

use std::time::Duration;

/// How long to wait for an answer. A source that is silent for longer counts as frozen.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// How often each source is asked.
pub const ASK_EVERY: Duration = Duration::from_millis(500);
