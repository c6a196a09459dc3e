//! Log lines: JSON for programs, text for people.

use std::io::{self, IsTerminal, Write};

use anyhow::Context;
use bus::{shown, shown_json, without_passwords};
use tracing_subscriber::{
    EnvFilter, Layer, field::MakeExt, fmt, layer::SubscriberExt, util::SubscriberInitExt,
};

use super::traces::Traces;
use crate::pod::config::LogFormat;

/// Library messages at the level `info` are for the library's developers. A filter that names a library
/// overrides this.
const QUIET: &str = "async_nats=warn,sqlx=warn";
/// Spans for traces are not for log lines.
const LAST: &str = "spans=off";

/// Starts logging to standard output, and sending traces if given. Every line has the
/// fields of the spans that it is in, such as `request.id` and `trace.id`.
///
/// # Errors
/// When `filter` is not a list of directives, or logging was started before.
pub fn logs(
    filter: &str,
    format: Option<LogFormat>,
    traces: Option<&Traces>,
) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(format!("{QUIET},{filter},{LAST}"))
        .with_context(|| format!("LOG is {filter:?}"))?;
    let terminal = std::io::stdout().is_terminal();
    let format = format.unwrap_or(if terminal { LogFormat::Pretty } else { LogFormat::Json });
    let registry = tracing_subscriber::registry().with(traces.map(Traces::layer));
    match format {
        LogFormat::Json => registry
            .with(
                json_subscriber::fmt::layer()
                    .with_writer(|| Escaped(io::stdout()))
                    .flatten_event(true)
                    .flatten_span_list_on_top_level(true)
                    .with_current_span(false)
                    .with_span_list(false)
                    .with_filter(filter),
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
            let lines = fmt::layer().with_ansi(terminal).fmt_fields(fields.delimited(" "));
            registry.with(lines.with_filter(filter)).try_init()
        }
    }
    .context("logging was started twice")
}

/// Writes one JSON object per line, without terminal control characters or passwords in URLs.
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
