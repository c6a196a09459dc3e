//! What a person must set right, or a provisioner make: said at once and then once a minute, and looked at
//! again all the while, so that it ends by itself.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, info, warn};

use super::TopologyError;

/// How often a refusal is said.
const SAY_EVERY: Duration = Duration::from_secs(60);
/// How soon to look again.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How soon to look for what a provisioner makes.
const LOOK_FOR_PROVIDED: Duration = Duration::from_millis(500);

/// Whether a stream or a group is refused or missing now.
#[derive(Debug)]
pub(crate) struct Refusal {
    of: &'static str,
    said: Option<Instant>,
}

impl Refusal {
    pub(crate) fn of(of: &'static str) -> Self {
        Self { of, said: None }
    }

    /// Takes note of a failure. If it is a refusal, says so, and returns how soon to look again.
    pub(crate) fn note(&mut self, failure: &anyhow::Error) -> Option<Duration> {
        let again = match failure.downcast_ref() {
            Some(TopologyError::Drift { .. }) => LOOK_AGAIN,
            Some(TopologyError::Missing { .. }) => LOOK_FOR_PROVIDED,
            _ => return None,
        };
        if self.said.is_none_or(|said| said.elapsed() >= SAY_EVERY) {
            let failure = format!("{failure:#}");
            match again {
                LOOK_AGAIN => error!(error = failure, "refused until a person sets it right"),
                _ => warn!(error = failure, "waiting for what another has to make"),
            }
            self.said = Some(Instant::now());
            metrics::gauge!("bus_topology_refused", "what" => self.of).set(1);
        }
        Some(again)
    }

    /// It is as it must be.
    pub(crate) fn end(&mut self) {
        if self.said.take().is_some() {
            info!(what = self.of, "is as it must be again");
            metrics::gauge!("bus_topology_refused", "what" => self.of).set(0);
        }
    }
}
