//! What every process is told by its environment. Read before anything is opened; a bad value ends
//! the process with exit status 64 (`EX_USAGE` of sysexits.h) and the variable's name.

use std::{ffi::OsString, net::SocketAddr, num::NonZeroUsize, str::FromStr, time::Duration};

use axum::http::{HeaderValue, Uri};
use bus::{Options, Proof, Seed, User, without_passwords};
use clap::{
    Args, Parser,
    error::{ContextKind, ContextValue},
};

use super::{http::MiddlewareSettings, secret::Secret};
use bus::ClientId;

/// Who and where the process is, and how it speaks.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Process")]
pub struct PodSettings {
    /// The client id: unique among running processes. In Kubernetes the pod's name, by the
    /// downward API. Default: the host's name and the process id.
    #[arg(long, env = "POD_NAME", value_name = "POD_NAME")]
    pub client_id: Option<ClientId>,

    /// The node that the pod runs on, to tell a duplicate where its twin is.
    #[arg(long, env, value_name = "NODE_NAME", default_value = "")]
    pub node_name: String,

    /// How it serves HTTP.
    #[command(flatten)]
    pub http: HttpSettings,

    /// How long the process may take to stop, such as 20s. Below the pod's
    /// terminationGracePeriodSeconds.
    #[arg(long, env, value_name = "SHUTDOWN_GRACE", default_value = "20s", value_parser = duration)]
    pub shutdown_grace: Duration,

    /// What to log: a level, or tracing-subscriber directives such as info,bus=debug.
    #[arg(long, env, value_name = "LOG", default_value = "info")]
    pub log: String,

    /// How to log: json (one object a line), or pretty for a person. Default: pretty on a
    /// terminal.
    #[arg(long, env, value_name = "LOG_FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,

    /// The OpenTelemetry collector that gets the traces, by OTLP over HTTP, such as
    /// <http://localhost:4318>. Default: none, and no traces. OTEL_SERVICE_NAME and the SDK's other
    /// variables apply.
    #[arg(long, env, value_name = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    pub otel_exporter_otlp_endpoint: Option<String>,
}

/// How the process serves HTTP, and what it allows its clients.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "HTTP")]
pub struct HttpSettings {
    /// Where the HTTP API listens.
    #[arg(long, env, value_name = "HTTP_ADDRESS", default_value = "127.0.0.1:3000")]
    pub http_address: SocketAddr,

    /// Where /livez, /readyz and /metrics listen, out of reach of the API's clients. Default: at
    /// HTTP_ADDRESS, beside the API.
    #[arg(long, env, value_name = "OPERATIONS_ADDRESS")]
    pub operations_address: Option<SocketAddr>,

    /// How many requests may be at work at once; a further one waits its turn for a second, and is then
    /// answered 503 with Retry-After. More than the database has connections for only wait for one, so
    /// this bounds the memory and the longest wait.
    #[arg(long, env, value_name = "HTTP_MAX_CONCURRENT", default_value = "256")]
    pub http_max_concurrent: NonZeroUsize,

    /// How many connections may be open at once. For a further one, the oldest is closed whose client
    /// neither finishes its request nor takes its answer, or else the one that has idled longest.
    #[arg(long, env, value_name = "HTTP_MAX_CONNECTIONS", default_value = "512")]
    pub http_max_connections: NonZeroUsize,

    /// How long a process that stops still takes requests, such as 5s; each answer says that its
    /// connection will be closed. Long enough for every proxy to hear that it stops. Below
    /// SHUTDOWN_GRACE.
    #[arg(long, env, value_name = "HTTP_DRAIN", default_value = "1s", value_parser = duration)]
    pub http_drain: Duration,

    /// The origins whose pages may use the API from a browser, with commas between, such as
    /// `https://tickets.example.com`; or * for all. Default: none.
    #[arg(long, env, value_name = "CORS_ORIGINS", value_delimiter = ',', value_parser = origin)]
    pub cors_origins: Vec<HeaderValue>,
}

impl HttpSettings {
    /// The settings of the middleware.
    #[must_use]
    pub fn middleware(&self) -> MiddlewareSettings {
        MiddlewareSettings {
            concurrent: self.http_max_concurrent.get(),
            origins: self.cors_origins.clone(),
        }
    }
}

/// An origin (RFC 6454) as a browser sends it, or `*`.
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

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// Text for a person.
    Pretty,
}

impl PodSettings {
    /// The client id that was given, or one made from host and process.
    #[must_use]
    pub fn client_id(&self) -> ClientId {
        self.client_id.clone().unwrap_or_else(ClientId::of_this_process)
    }
}

/// Which Postgres holds the service's tables.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Database")]
pub struct DatabaseSettings {
    /// postgres://user:password@host:port/database
    #[arg(long, env, value_name = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Secret,

    /// The most connections that the process opens.
    #[arg(long, env, value_name = "DATABASE_MAX_CONNECTIONS", default_value_t = 16,
          value_parser = clap::value_parser!(u32).range(3..=1000))]
    pub database_max_connections: u32,
}

/// Which NATS carries the events.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "NATS")]
pub struct NatsSettings {
    /// One URL, or several of one cluster with commas between.
    #[arg(long, env, value_name = "NATS_URL", default_value = "nats://127.0.0.1:4222",
          hide_env_values = true, value_parser = nats_url)]
    pub nats_url: Secret,

    /// The user, when the server asks for one. Answers come in under _INBOX and its name.
    #[arg(long, env, value_name = "NATS_USER", requires = "proof", value_parser = user)]
    pub nats_user: Option<String>,

    /// The user's password.
    #[arg(
        long,
        env,
        value_name = "NATS_PASSWORD",
        requires = "nats_user",
        hide_env_values = true,
        group = "proof"
    )]
    pub nats_password: Option<Secret>,

    /// A file with the seed of the user's NKey, in place of a password. `ticketing nkey` makes one.
    #[arg(long, env, value_name = "NATS_SEED_FILE", requires = "nats_user", value_parser = seed_in,
          group = "proof")]
    pub nats_seed_file: Option<Seed>,

    /// A PEM file with the authority that signed the server's certificate; turns TLS on.
    #[arg(long, env, value_name = "NATS_CA")]
    pub nats_ca: Option<std::path::PathBuf>,

    /// How many copies of a new stream the NATS cluster keeps: 1, 3 or 5.
    #[arg(long, env, value_name = "NATS_REPLICAS", default_value_t = 1,
          value_parser = clap::value_parser!(u8).range(1..=5))]
    pub nats_replicas: u8,

    /// Streams that are in other services' accounts of NATS, with commas between. This one imports them
    /// under JS.TICKETS.API, say, and the service's provisioner makes its queue group there. Default: none,
    /// all services share one account.
    #[arg(long, env, value_name = "NATS_IMPORTED", value_delimiter = ',', value_parser = stream)]
    pub nats_imported: Vec<String>,
}

impl NatsSettings {
    /// What the bus needs to connect as this process.
    #[must_use]
    pub fn options(&self, client_id: &ClientId, node: &str) -> Options {
        Options {
            servers: self.nats_url.to_string(),
            user: user_of(&self.nats_user, &self.nats_password, &self.nats_seed_file),
            imported: self.nats_imported.clone(),
            certificate_authority: self.nats_ca.clone(),
            stream_replicas: usize::from(self.nats_replicas),
            node: node.to_owned(),
            ..Options::new(client_id.clone())
        }
    }
}

/// The user of NATS that these settings name.
#[must_use]
pub fn user_of(
    name: &Option<String>,
    password: &Option<Secret>,
    seed: &Option<Seed>,
) -> Option<User> {
    let seed = seed.clone().map(Proof::Seed);
    let proof =
        seed.or_else(|| password.as_deref().map(|text| Proof::Password(text.to_owned())))?;
    Some(User { name: name.clone()?, proof })
}

/// The seed of an NKey in a file.
///
/// # Errors
/// When the file cannot be read, or holds something else.
pub fn seed_in(file: &str) -> Result<Seed, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    text.parse().map_err(|error| format!("{file}: {error}"))
}

/// The name of a stream, which is part of a subject.
fn stream(text: &str) -> Result<String, &'static str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    let is_name = !text.is_empty() && text.chars().all(fits);
    is_name.then(|| text.to_owned()).ok_or("it is not the name of a stream")
}

/// Reads a process's settings, or ends it: 0 after `--help`, 64 on a bad value.
#[must_use]
pub fn parse<S: Parser>() -> S {
    parse_from(std::env::args_os())
}

/// Reads settings from these arguments, the program's name first, and the environment; or ends the process
/// as [`parse`] does.
#[must_use]
pub fn parse_from<S: Parser>(arguments: impl IntoIterator<Item = OsString>) -> S {
    S::try_parse_from(arguments).unwrap_or_else(|mut error| {
        if !error.use_stderr() {
            let _ = error.print();
            std::process::exit(0)
        }
        hide_secret(&mut error);
        // Also what was given in the wrong place.
        eprint!("{}", without_passwords(&error.render().to_string()));
        std::process::exit(EX_USAGE)
    })
}

/// Takes the value of a setting that may hold a password out of what is said of it.
fn hide_secret(error: &mut clap::Error) {
    let Some(ContextValue::String(setting)) = error.get(ContextKind::InvalidArg) else { return };
    let setting = setting.to_ascii_lowercase();
    if ["url", "password", "key"].iter().any(|secret| setting.contains(secret)) {
        error.insert(ContextKind::InvalidValue, ContextValue::String("…".to_owned()));
    }
}

/// The command was used incorrectly, by sysexits.h.
pub const EX_USAGE: i32 = 64;

/// The URL of a NATS server, or those of several with commas between.
///
/// # Errors
/// When it is neither.
pub fn nats_url(text: &str) -> Result<Secret, String> {
    bus::servers(text).map_err(|error| error.to_string())?;
    Ok(text.into())
}

/// A user's name that can be part of a subject.
fn user(text: &str) -> Result<String, &'static str> {
    let in_a_subject = !text.is_empty() && !text.contains(|c: char| " \t\r\n*>".contains(c));
    in_a_subject.then(|| text.to_owned()).ok_or("it must not be empty, or hold blanks, * or >")
}

/// A duration as people write it: `500ms`, `20s`, `7days`.
///
/// # Errors
/// When the text is not one.
pub fn duration(text: &str) -> Result<Duration, humantime::DurationError> {
    humantime::Duration::from_str(text).map(Into::into)
}
