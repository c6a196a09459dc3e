//! Waiting for conditions. A test waits until something holds, never for time to pass. Every wait
//! has a timeout, whose panic says what was awaited.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Longer than anything takes unless it is lost, even on a machine busy with other test runs.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How often a condition is checked: often enough not to slow down tests, and rarely enough not to
/// slow down what they wait for.
pub const POLL_INTERVAL: Duration = Duration::from_millis(25);

/// Waits until a condition holds.
///
/// # Panics
/// If it does not hold within [`PATIENCE`]. `what` completes the sentence "timed out waiting until
/// …".
pub async fn until(what: &str, holds: impl AsyncFnMut() -> bool) {
    until_within(PATIENCE, what, holds).await;
}

/// The same with another timeout: longer for slow steps, shorter for a promised time.
///
/// # Panics
/// If the condition does not hold within the timeout.
pub async fn until_within(bound: Duration, what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + bound;
    while !holds().await {
        assert!(Instant::now() < deadline, "timed out after {bound:?} waiting until {what}");
        sleep(POLL_INTERVAL).await;
    }
}
