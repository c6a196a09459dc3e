//! Reports a stream or group that an operator must correct or a provisioner must create: at once,
//! then once a minute. The caller keeps checking, so the report ends once it is corrected.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, info, warn};

use super::TopologyError;

/// How often the same refusal is logged.
const REPORT_EVERY: Duration = Duration::from_secs(60);
/// How soon to check again.
const CHECK_AGAIN: Duration = Duration::from_secs(5);
/// How soon to check again for what a provisioner creates.
const CHECK_PROVIDED: Duration = Duration::from_millis(500);

/// Whether a stream or a group is unusable now.
#[derive(Debug)]
pub(crate) struct Refusal {
    of: &'static str,
    reported: Option<Instant>,
}

impl Refusal {
    pub(crate) fn of(of: &'static str) -> Self {
        Self { of, reported: None }
    }

    /// If a failure is a refusal, logs it and returns how soon to check again.
    pub(crate) fn report(&mut self, failure: &TopologyError) -> Option<Duration> {
        let again = match failure {
            TopologyError::Drift { .. } => CHECK_AGAIN,
            TopologyError::Missing { .. } => CHECK_PROVIDED,
            TopologyError::Away(_) => return None,
        };
        if self.reported.is_none_or(|reported| reported.elapsed() >= REPORT_EVERY) {
            match failure {
                TopologyError::Drift { .. } => {
                    error!(error = %failure, "unusable until an operator corrects it");
                }
                _ => warn!(error = %failure, "waiting for another process to create it"),
            }
            self.reported = Some(Instant::now());
            metrics::gauge!("bus_topology_refused", "what" => self.of).set(1);
        }
        Some(again)
    }

    /// It is usable.
    pub(crate) fn end(&mut self) {
        if self.reported.take().is_some() {
            info!(what = self.of, "usable again");
        }
        // Also the first time: an alert on a missing metric would never resolve.
        metrics::gauge!("bus_topology_refused", "what" => self.of).set(0);
    }
}
