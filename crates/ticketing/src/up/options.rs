//! What to start, and on which ports.

use clap::Args;
use common::{
    bus::Store,
    pod::{config::nats_url, secret::Secret},
};

use crate::{running::DataDir, services};

/// The default ports. Each service process gets the next one after this.
const HTTP_PORT: u16 = 3000;
const NATS_PORT: u16 = 4222;
const MONITOR_PORT: u16 = 8222;
const CONSOLE_PORT: u16 = 3900;
/// Likewise for the services' probes, metrics and operations APIs.
const OPERATIONS_PORT: u16 = 3100;

/// What to start, and how.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// How many replicas of the orders service to start.
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u16).range(1..=50))]
    pub(super) replicas: u16,

    /// Deletes the data of previous runs first.
    #[arg(long, conflicts_with_all = ["nats_url", "database_url"])]
    pub(super) fresh: bool,

    /// Where events are kept. memory: in the memory of NATS, whose restart loses them. file: on the disk of NATS;
    /// events that it loses are republished from Postgres. postgres: like file, but NATS keeps them in memory.
    /// Default: file for a new stream; an existing stream keeps its storage.
    #[arg(long, value_name = "memory|file|postgres")]
    pub(super) store: Option<Store>,

    /// Uses a running NATS server with JetStream instead of starting one: its URL, or several of one cluster,
    /// separated by commas.
    #[arg(long, value_name = "URL", value_parser = nats_url)]
    pub(super) nats_url: Option<Secret>,

    /// Uses a running Postgres server instead of starting one. Creates a database for each service unless
    /// it exists.
    #[arg(long, value_name = "URL")]
    pub(super) database_url: Option<Secret>,

    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1024..=65_000), help = format!(
    "Uses this port and the following ones (for the services, NATS, its monitoring, Postgres, the console, the \
    services' probes and metrics) instead of {HTTP_PORT} and following, {NATS_PORT}, {MONITOR_PORT}, any free \
    port, {CONSOLE_PORT}, and {OPERATIONS_PORT} and following"
    ))]
    first_port: Option<u16>,

    /// Puts a forwarder between every process of the services and NATS and Postgres, so that the console can cut a
    /// process off from either for some seconds. Slows the system down a little.
    #[arg(long, conflicts_with_all = ["nats_url", "database_url"])]
    pub(super) cuttable: bool,

    #[command(flatten)]
    pub(super) data: DataDir,
}

/// The ports to use. If one is taken, another is used and reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ports {
    /// The first port of the services' HTTP.
    pub(super) http: u16,
    pub(super) nats: u16,
    pub(super) monitor: u16,
    pub(super) console: u16,
    /// The first port of the services' probes, metrics and operations APIs.
    pub(super) operations: u16,
    /// `None` if any will do.
    pub(super) postgres: Option<u16>,
}

impl Options {
    pub(super) fn ports(&self) -> Ports {
        let Some(http) = self.first_port else {
            return Ports {
                http: HTTP_PORT,
                nats: NATS_PORT,
                monitor: MONITOR_PORT,
                console: CONSOLE_PORT,
                operations: OPERATIONS_PORT,
                postgres: None,
            };
        };
        let nats = http + services::processes(self.replicas);
        let postgres = Some(nats + 2);
        let (monitor, console, operations) = (nats + 1, nats + 3, nats + 4);
        Ports { http, nats, monitor, console, operations, postgres }
    }
}
