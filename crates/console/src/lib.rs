//! The console: shows where events are, from the request to the row it ends in. It reads NATS, the
//! monitoring of nats-server, and the probes and metrics of the services; it opens no service's database.
//!
//! - [`sources`]: what is asked, how often, and for how long an answer is waited for.
//! - [`streaming`]: `/streaming/...`, in the JSON of NATS Streaming's monitoring.
//! - [`guard`]: which requests are answered at all.

pub mod guard;
pub mod sources;
pub mod streaming;

use std::{future::Future, pin::Pin, process::ExitCode};

use axum::{Router, middleware::from_fn_with_state};
use clap::Parser;
use common::pod::{
    config::{self, NatsSettings, PodSettings},
    http::{Http, middleware},
    process::{self, Pod},
};

use guard::Hosts;
use sources::{monitor::Monitor, nats::Nats};

/// Shows streams, queue groups and their members, and what waits where.
///
/// Every setting is an option or an environment variable. A bad one ends the process with status 64 and its
/// name, before anything is opened.
#[derive(Debug, Clone, Parser)]
#[command(name = "console", version)]
pub struct Settings {
    /// Who and where the process is.
    #[command(flatten)]
    pub pod: PodSettings,

    /// The NATS that it watches.
    #[command(flatten)]
    pub nats: NatsSettings,

    /// The monitoring port of nats-server, such as http://127.0.0.1:8222. Default: not asked.
    #[arg(long, env, value_name = "NATS_MONITOR_URL", help_heading = "NATS")]
    pub nats_monitor_url: Option<String>,

    /// The names under which browsers may reach the console, with commas between, besides localhost and
    /// loopback addresses. A request with another Host header is refused: a page of a stranger must not
    /// reach a console on this machine through a name of its own.
    #[arg(
        long,
        env,
        value_name = "CONSOLE_HOSTS",
        value_delimiter = ',',
        help_heading = "Console"
    )]
    pub console_hosts: Vec<String>,
}

/// The console from its environment to its exit status.
pub async fn main() -> ExitCode {
    run(config::parse()).await
}

/// The console from its settings to its exit status.
pub async fn run(settings: Settings) -> ExitCode {
    process::run(settings.pod.clone(), |pod| start(settings, pod)).await
}

/// What the handlers share.
#[derive(Clone)]
pub struct Console {
    /// Reads streams, queue groups and leases.
    pub nats: Nats,
    /// Reads the server's own numbers.
    pub monitor: Monitor,
}

type Close = Pin<Box<dyn Future<Output = ()> + Send>>;

async fn start(settings: Settings, pod: Pod) -> anyhow::Result<impl FnOnce() -> Close> {
    let http = Http::bind(&settings.pod)?;
    let bus = pod.connect(&settings.nats).await?;
    let console = Console {
        nats: Nats::new(bus.clone()),
        monitor: Monitor::new(settings.nats_monitor_url.as_deref())?,
    };
    let hosts = Hosts::new(&settings.console_hosts);
    let api = router(console).layer(from_fn_with_state(hosts, guard::known_host));
    http.spawn(middleware(api, &settings.pod.http.middleware()), &pod)?;
    Ok(move || Box::pin(async move { bus.close().await }) as _)
}

/// Everything that the console answers, without the guard.
pub fn router(console: Console) -> Router {
    streaming::routes().with_state(console)
}
