//! Logs, traces and metrics of a process.

mod logs;
mod traces;

use std::time::Duration;

use ::metrics::{describe_counter, describe_gauge};
use anyhow::Context;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::time::interval;

use bus::Shutdown;

pub use logs::logs;
pub use traces::Traces;

/// Upper bounds of the histograms' buckets, in seconds: from a handler's fraction of a millisecond
/// to an event that waited out an outage.
const BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0];

/// How often samples of histograms are put into their buckets.
const UPKEEP: Duration = Duration::from_secs(1);

/// Starts collecting metrics, and returns what renders them for Prometheus.
///
/// # Errors
/// When a recorder was installed before.
pub fn metrics() -> anyhow::Result<PrometheusHandle> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &BUCKETS)
        .and_then(PrometheusBuilder::install_recorder)
        .context("cannot collect metrics")?;
    describe_gauge!("process_info", "1, with the client id and the node of this process.");
    describe_gauge!("process_ready", "1 while this gate of /readyz is open, else 0.");
    describe_gauge!("auth_issuer_reachable", "1 while the token issuer answers, else 0.");
    describe_counter!(
        "otel_spans_total",
        "Spans for the trace collector, by outcome: sent, or failed (and dropped)."
    );
    bus::describe_metrics();
    super::http::describe_metrics();
    Ok(handle)
}

/// Puts the samples of histograms into their buckets until the process stops. Otherwise they would
/// be kept one by one until the metrics are next read.
///
/// # Errors
/// Never; the type is what [`Shutdown::spawn`] takes.
pub async fn upkeep(metrics: PrometheusHandle, shutdown: Shutdown) -> anyhow::Result<()> {
    let mut tick = interval(UPKEEP);
    loop {
        tokio::select! {
            () = shutdown.begun() => return Ok(()),
            _ = tick.tick() => metrics.run_upkeep(),
        }
    }
}
