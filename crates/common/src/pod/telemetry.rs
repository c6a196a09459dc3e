//! Logs and metrics of a process.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use anyhow::Context;
use bus::{shown, shown_json, without_passwords};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::time::interval;
use tracing_subscriber::{
    EnvFilter, field::MakeExt, fmt, layer::SubscriberExt, util::SubscriberInitExt,
};

use super::{config::LogFormat, shutdown::Shutdown};

/// Upper bounds of the histograms' buckets, in seconds: from a handler's fraction of a millisecond
/// to an event that waited out an outage.
const BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0];

/// How often samples of histograms are put into their buckets.
const UPKEEP: Duration = Duration::from_secs(1);

/// What libraries say at the level `info` is for their own developers. A filter that names them
/// overrides this.
const QUIET: &str = "async_nats=warn,sqlx=warn";

/// Starts logging to standard output.
///
/// # Errors
/// When `filter` is not a list of directives, or logging was started before.
pub fn logs(filter: &str, format: Option<LogFormat>) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(format!("{QUIET},{filter}"))
        .with_context(|| format!("LOG is {filter:?}"))?;
    let terminal = std::io::stdout().is_terminal();
    let format = format.unwrap_or(if terminal { LogFormat::Pretty } else { LogFormat::Json });
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Json => registry
            .with(
                fmt::layer()
                    .json()
                    .with_writer(|| Escaped(io::stdout()))
                    .flatten_event(true)
                    .with_current_span(false)
                    .with_span_list(false),
            )
            .try_init(),
        LogFormat::Pretty => {
            // Field by field: the line's own colors stay.
            let fields = fmt::format::debug_fn(|out, field, value| {
                let value = format!("{value:?}");
                let value = shown(&without_passwords(&value)).into_owned();
                match field.name() {
                    "message" => write!(out, "{value}"),
                    name => write!(out, "{name}={value}"),
                }
            });
            registry
                .with(fmt::layer().with_ansi(terminal).fmt_fields(fields.delimited(" ")))
                .try_init()
        }
    }
    .context("logging was started twice")
}

/// A JSON object a line, in which nothing is left that a terminal acts on, and no password of a URL.
struct Escaped<W>(W);

impl<W: Write> Write for Escaped<W> {
    /// Takes a whole line, as the layer writes it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        self.0.write_all(shown_json(&without_passwords(&text)).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Starts collecting metrics, and returns what renders them for Prometheus.
///
/// # Errors
/// When a recorder was installed before.
pub fn metrics() -> anyhow::Result<PrometheusHandle> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &BUCKETS)
        .and_then(PrometheusBuilder::install_recorder)
        .context("cannot collect metrics")?;
    bus::describe_metrics();
    super::http::describe_metrics();
    Ok(handle)
}

/// Puts the samples of histograms into their buckets until the process stops. Without, they would
/// be kept one by one for as long as nobody asks for the metrics.
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
