//! The console: shows where events are, from the request to the row in a database. It reads NATS, nats-server's
//! monitoring, and the services' probes and metrics; it opens no service's database.
//!
//! - [`sources`]: what the console asks, how often, and how long it waits for an answer.
//! - [`live`]: a snapshot of the answers, twice a second.
//! - [`page`]: the page that shows it.
//! - [`streaming`]: `/streaming/...`, in the JSON of NATS Streaming's monitoring.
//! - [`act`]: what can be done through the console, and who may do it.
//! - [`operations`]: dead letters, timelines and totals, from the services' operations APIs.
//! - [`guard`]: which requests are answered at all.

pub mod act;
pub mod guard;
pub mod live;
pub mod operations;
pub mod page;
pub mod sources;
pub mod streaming;

use std::{path::PathBuf, process::ExitCode};

use axum::{Router, middleware::from_fn_with_state};
use clap::Parser;
use common::{
    bus::Shutdown,
    pod::{
        config::{self, NatsSettings, PodSettings, operations_token},
        hosts::Hosts,
        http::{Http, middleware},
        process::{self, Pod},
        secret::Secret,
    },
};
use reqwest::Url;

use act::{Experiments, Ledger, Rights, Services};
use live::{Acts, Newest};
use operations::Operations;
use sources::{
    monitor::Monitor,
    nats::Nats,
    replicas::{Directory, ServiceAt},
};

/// Shows streams, queue groups and their members, and where events wait.
///
/// Every setting is an option or an environment variable. If one is invalid, the process names it and exits with
/// status 64 before it opens anything.
#[derive(Debug, Clone, Parser)]
#[command(name = "console", version)]
pub struct Settings {
    /// Who and where the process is.
    #[command(flatten)]
    pub pod: PodSettings,

    /// The NATS server to watch.
    #[command(flatten)]
    pub nats: NatsSettings,

    /// The monitoring port of nats-server, such as http://127.0.0.1:8222. Default: none.
    #[arg(long, env, value_name = "NATS_MONITOR_URL", help_heading = "NATS")]
    pub nats_monitor_url: Option<Url>,

    /// The services, and where the probes and metrics of their replicas are, separated by commas:
    /// orders=http://orders-operations:9000. Every address that the host name resolves to is a replica.
    #[arg(
        long,
        env,
        value_name = "CONSOLE_SERVICES",
        value_delimiter = ',',
        help_heading = "Console"
    )]
    pub console_services: Vec<ServiceAt>,

    /// The data folder of a system started by `cargo run`, which records where its replicas are.
    #[arg(long, env, value_name = "CONSOLE_DATA_FOLDER", help_heading = "Console")]
    pub console_data_folder: Option<PathBuf>,

    /// The URL of the tickets API, to post to. Default: that of the system in CONSOLE_DATA_FOLDER.
    #[arg(long, env, value_name = "CONSOLE_TICKETS_URL", help_heading = "Console")]
    pub console_tickets_url: Option<Url>,

    /// The URL of the orders API, to order from. Default: that of the system in CONSOLE_DATA_FOLDER.
    #[arg(long, env, value_name = "CONSOLE_ORDERS_URL", help_heading = "Console")]
    pub console_orders_url: Option<Url>,

    /// The token required to post, publish and break things. Without one, the console is read-only, unless
    /// HTTP_ADDRESS is a loopback address: then any local user may do so.
    #[arg(
        long,
        env,
        value_name = "CONSOLE_TOKEN",
        hide_env_values = true,
        help_heading = "Console"
    )]
    pub console_token: Option<Secret>,

    /// The OPERATIONS_TOKEN of the services, to redrive and discard dead letters. Default: none, which makes dead
    /// letters read-only.
    #[arg(
        long,
        env,
        value_name = "CONSOLE_OPERATIONS_TOKEN",
        hide_env_values = true,
        value_parser = operations_token,
        help_heading = "Console"
    )]
    pub console_operations_token: Option<Secret>,

    /// The host names under which browsers may reach the console, separated by commas, in addition to localhost and
    /// loopback addresses. Requests with another Host header are refused, so that a website cannot reach a
    /// local console by DNS rebinding.
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
    process::run("console", settings.pod.clone(), async |pod| start(settings, pod).await).await
}

/// What the handlers share.
#[derive(Clone)]
pub struct Console {
    /// Reads streams, queue groups and leases.
    pub nats: Nats,
    /// Reads the server's own numbers.
    pub monitor: Monitor,
    /// The APIs of the services.
    pub services: Services,
    /// The operations APIs of the services.
    pub operations: Operations,
    /// The counts of the tickets that loads posted.
    pub ledger: Ledger,
    /// The experiments and their outcomes.
    pub experiments: Experiments,
    /// Whether the links of the system on this machine can be cut.
    pub cuttable: bool,
    /// The data folder of the system on this machine.
    pub data_folder: Option<PathBuf>,
    /// The shutdown of the process.
    pub shutdown: Shutdown,
    /// The newest snapshot.
    pub newest: Newest,
}

async fn start(settings: Settings, pod: Pod) -> anyhow::Result<impl AsyncFnOnce()> {
    let http = Http::bind(&settings.pod)?;
    let bus = pod.connect(&settings.nats).await?;
    let nats = Nats::new(bus.clone());
    let directory = Directory {
        services: settings.console_services,
        data_folder: settings.console_data_folder,
    };
    let ledger = Ledger::default();
    let (tickets, orders) = (settings.console_tickets_url, settings.console_orders_url);
    let services = Services::new(directory.clone(), tickets, orders)?;
    let rights = Rights::new(settings.console_token.as_ref(), settings.pod.http.http_address);
    let data_folder = directory.data_folder.clone();
    let cuttable = directory.is_cuttable().await;
    let acts = Acts {
        rights: rights.clone(),
        breakable: data_folder.is_some(),
        cuttable,
        ledger: ledger.clone(),
        experiments: Experiments::default(),
    };
    let experiments = acts.experiments.clone();
    let look = act::look(services.clone(), ledger.clone(), pod.shutdown.clone());
    pod.shutdown.spawn("look for posted tickets", look);
    let (newest, replicas) = live::spawn(nats.clone(), directory, acts, &pod.shutdown);
    let console = Console {
        newest,
        operations: Operations::new(replicas, settings.console_operations_token)?,
        services,
        ledger,
        experiments,
        cuttable,
        data_folder,
        shutdown: pod.shutdown.clone(),
        nats,
        monitor: Monitor::new(settings.nats_monitor_url.as_ref())?,
    };
    let hosts = Hosts::new(&settings.console_hosts);
    let api = router(console, &rights).layer(from_fn_with_state(hosts, guard::known_host));
    http.spawn(middleware(api, &(&settings.pod).into()), &pod)?;
    Ok(async move || bus.close().await)
}

/// All routes, without the guard.
pub fn router(console: Console, rights: &Rights) -> Router {
    let looking = streaming::routes().merge(page::routes());
    looking.merge(act::routes(rights)).merge(operations::routes(rights)).with_state(console)
}
