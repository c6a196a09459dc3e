//! The settings of every process, from options and the environment. They are parsed before anything
//! is opened. An invalid one stops the process with exit status 64 (`EX_USAGE` of sysexits.h) and a
//! message that names it.

mod nats;
mod operations;

use std::{
    ffi::OsString, fmt::Display, net::SocketAddr, num::NonZeroUsize, process::ExitCode,
    str::FromStr, time::Duration,
};

use axum::http::{HeaderValue, Uri};
use bus::{ClientId, without_passwords};
use clap::{
    Args, Parser,
    error::{ContextKind, ContextValue},
};

use super::secret::Secret;

pub use nats::{NatsLogin, NatsSettings, nats_url};
pub use operations::{OperationsSettings, Switch, operations_token};

/// The process: its name, its logs, its shutdown.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Process")]
pub struct PodSettings {
    /// The client id, unique among running processes. In Kubernetes: the pod's name, from the downward API.
    /// Default: host name and process id.
    #[arg(long, env = "POD_NAME", value_name = "POD_NAME")]
    pub client_id: Option<ClientId>,

    /// The node that the pod runs on. A process that finds its client id in use reports the holder's node.
    #[arg(long, env, value_name = "NODE_NAME", default_value = "")]
    pub node_name: String,

    /// The HTTP server.
    #[command(flatten)]
    pub http: HttpSettings,

    /// How long shutdown may take, such as 20s. Must be below the pod's terminationGracePeriodSeconds.
    #[arg(long, env, value_name = "SHUTDOWN_GRACE", default_value = "20s", value_parser = duration)]
    pub shutdown_grace: Duration,

    /// What to log: a level, or tracing-subscriber directives such as info,bus=debug.
    #[arg(long, env, value_name = "LOG", default_value = "info")]
    pub log: String,

    /// The log format: json (one object per line) or pretty (for people). Default: pretty on a terminal,
    /// otherwise json.
    #[arg(long, env, value_name = "LOG_FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,

    /// The OpenTelemetry collector to send traces to, by OTLP over HTTP, such as
    /// <http://localhost:4318>. Default: none, which disables traces and costs nothing. OTEL_SERVICE_NAME,
    /// OTEL_TRACES_SAMPLER, OTEL_BSP_MAX_QUEUE_SIZE and the SDK's other variables apply.
    #[arg(long, env, value_name = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    pub otel_exporter_otlp_endpoint: Option<String>,

    /// Sends no traces, whatever OTEL_EXPORTER_OTLP_ENDPOINT says.
    #[arg(long, env)]
    pub otel_sdk_disabled: bool,
}

/// How the process serves HTTP, and what it allows its clients.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "HTTP")]
pub struct HttpSettings {
    /// The address that the HTTP API listens on.
    #[arg(long, env, value_name = "HTTP_ADDRESS", default_value = "127.0.0.1:3000")]
    pub http_address: SocketAddr,

    /// The address that /livez, /readyz and /metrics listen on, out of reach of the API's clients. Default:
    /// HTTP_ADDRESS, together with the API.
    #[arg(long, env, value_name = "OPERATIONS_ADDRESS")]
    pub operations_address: Option<SocketAddr>,

    /// The most requests in progress at once; any further one waits up to a second for its turn and then gets
    /// a 503 with Retry-After. Requests beyond the number of database connections only wait for one, so this
    /// bounds memory and latency.
    #[arg(long, env, value_name = "HTTP_MAX_CONCURRENT", default_value = "128")]
    pub http_max_concurrent: NonZeroUsize,

    /// The most open connections at once. To accept a further one, the server closes the oldest connection
    /// whose client is not finishing its request or not reading its response, otherwise the longest idle one.
    #[arg(long, env, value_name = "HTTP_MAX_CONNECTIONS", default_value = "256")]
    pub http_max_connections: NonZeroUsize,

    /// How long to keep accepting requests during shutdown, such as 5s; each response closes its connection.
    /// Must be long enough for every proxy to notice the shutdown, and below SHUTDOWN_GRACE.
    #[arg(long, env, value_name = "HTTP_DRAIN", default_value = "1s", value_parser = duration)]
    pub http_drain: Duration,

    /// The origins that may call the API from a browser (CORS), separated by commas, such as
    /// `https://tickets.example.com`; * allows all. Default: none.
    #[arg(long, env, value_name = "CORS_ORIGINS", value_delimiter = ',', value_parser = origin)]
    pub cors_origins: Vec<HeaderValue>,
}

/// Parses an origin (RFC 6454) as a browser sends it, or `*`.
fn origin(text: &str) -> Result<HeaderValue, &'static str> {
    const WANTED: &str = "it must be * or an origin, such as https://tickets.example.com";
    let uri: Uri = text.parse().map_err(|_| WANTED)?;
    let as_sent = match (uri.scheme_str(), uri.authority()) {
        (Some(scheme @ ("http" | "https")), Some(authority)) => format!("{scheme}://{authority}"),
        _ => "*".to_owned(),
    };
    if text != as_sent {
        return Err(WANTED);
    }
    HeaderValue::from_str(text).map_err(|_| WANTED)
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// Text for people.
    Pretty,
}

impl PodSettings {
    /// Returns the configured client id, or one built from host name and process id.
    #[must_use]
    pub fn client_id(&self) -> ClientId {
        self.client_id.clone().unwrap_or_else(ClientId::of_this_process)
    }
}

/// The Postgres that holds the service's tables.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Database")]
pub struct DatabaseSettings {
    /// postgres://user:password@host:port/database
    #[arg(long, env, value_name = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Secret,

    /// The most database connections that the process opens.
    #[arg(long, env, value_name = "DATABASE_MAX_CONNECTIONS", default_value_t = 16,
          value_parser = clap::value_parser!(u32).range(3..=1000))]
    pub database_max_connections: u32,
}

/// Reads a process's settings, or ends the process: with status 0 after `--help`, 64 on an invalid
/// value.
#[must_use]
pub fn parse<S: Parser>() -> S {
    parse_from(std::env::args_os())
}

/// Reads settings from these arguments (the program's name first) and the environment, or ends the
/// process like [`parse`].
#[must_use]
pub fn parse_from<S: Parser>(arguments: impl IntoIterator<Item = OsString>) -> S {
    S::try_parse_from(arguments).unwrap_or_else(|mut error| {
        if !error.use_stderr() {
            let _ = error.print();
            std::process::exit(0)
        }
        hide_secret(&mut error);
        // Also removes passwords that were passed to the wrong option.
        eprint!("{}", without_passwords(&error.render().to_string()));
        std::process::exit(EX_USAGE)
    })
}

/// Removes the value of a setting that may hold a password from the error message.
fn hide_secret(error: &mut clap::Error) {
    let Some(ContextValue::String(setting)) = error.get(ContextKind::InvalidArg) else { return };
    let setting = setting.to_ascii_lowercase();
    if ["url", "password", "key", "token"].iter().any(|secret| setting.contains(secret)) {
        error.insert(ContextKind::InvalidValue, ContextValue::String("…".to_owned()));
    }
}

/// The command was used incorrectly (sysexits.h).
pub const EX_USAGE: i32 = 64;

/// Reports an invalid setting and returns the exit status for it.
#[must_use]
pub fn bad_setting(reason: impl Display) -> ExitCode {
    eprintln!("error: {reason}");
    ExitCode::from(u8::try_from(EX_USAGE).unwrap_or(1))
}

/// Parses a duration in the usual notation: `500ms`, `20s`, `7days`.
///
/// # Errors
/// If the text is not a duration.
pub fn duration(text: &str) -> Result<Duration, humantime::DurationError> {
    humantime::Duration::from_str(text).map(Into::into)
}
