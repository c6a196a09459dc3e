//! Waiting for conditions. A test waits until something holds, never for time to pass; the wait is bounded,
//! and says what it waited for when the time is up.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Nothing takes this long unless it is lost. Long enough for a machine that is busy with other test runs.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How often a condition is checked: often enough that no test feels it, seldom enough that the checks do
/// not slow down what they wait for.
pub const POLL_INTERVAL: Duration = Duration::from_millis(25);

/// Waits until a condition holds.
///
/// # Panics
/// When it does not hold within [`PATIENCE`]. `what` completes the sentence "timed out waiting until …".
pub async fn until(what: &str, holds: impl AsyncFnMut() -> bool) {
    until_within(PATIENCE, what, holds).await;
}

/// The same with another bound: longer for what takes longer, shorter where a promise says how long it may
/// take.
///
/// # Panics
/// When the condition does not hold within the bound.
pub async fn until_within(bound: Duration, what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + bound;
    while !holds().await {
        assert!(Instant::now() < deadline, "timed out after {bound:?} waiting until {what}");
        sleep(POLL_INTERVAL).await;
    }
}
