//! What is running: `up` writes it into the data folder, and the tools read it.

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Args;
use embedded::private;
use serde::{Deserialize, Serialize};
use sqlx::{Connection, PgConnection};
use tokio::time::timeout;

/// The file in the data folder.
const FILE: &str = "stack.json";

/// How long Postgres may take to answer a tool: it may be frozen.
pub(crate) const DATABASE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to a database.
pub(crate) async fn connect(url: &str) -> anyhow::Result<PgConnection> {
    let connected = timeout(DATABASE_TIMEOUT, PgConnection::connect(url)).await;
    Ok(connected
        .with_context(|| format!("Postgres did not answer within {DATABASE_TIMEOUT:?}"))??)
}

/// Which folder holds the system's data.
#[derive(Debug, Clone, Args)]
pub(crate) struct DataDir {
    /// The data folder of the system that `up` starts.
    #[arg(long, env = "TICKETING_DATA", value_name = "FOLDER", default_value = ".ticketing")]
    pub(crate) data_dir: PathBuf,
}

/// A running system.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RunningSystem {
    /// The process of `up`.
    pub(crate) pid: u32,
    pub(crate) nats_url: String,
    /// The URL of NATS monitoring; unknown for a server that `up` did not start.
    pub(crate) monitor_url: Option<String>,
    /// The database of each service.
    pub(crate) databases: BTreeMap<String, String>,
    /// The console's URL, once it is up.
    #[serde(default)]
    pub(crate) console_url: Option<String>,
    /// The HTTP address of each process, by its client id.
    pub(crate) services: BTreeMap<String, String>,
    /// The store, if `up` was given one.
    #[serde(default)]
    pub(crate) store: Option<String>,
    /// Whether each service's links to NATS and Postgres can be cut.
    #[serde(default)]
    pub(crate) cuttable: bool,
    /// The URL of each process's probes, metrics and operations API, by its client id.
    #[serde(default)]
    pub(crate) operations: BTreeMap<String, String>,
}

impl RunningSystem {
    /// Writes the file atomically, readable by this user only, because it contains passwords.
    pub(crate) fn save(&self, folder: &Path) -> anyhow::Result<()> {
        private::write(&folder.join(FILE), &serde_json::to_vec_pretty(self)?)
    }

    /// Deletes the file.
    pub(crate) fn remove(folder: &Path) {
        // It may not exist.
        let _ = fs::remove_file(folder.join(FILE));
    }

    /// Reads what is running; `None` if nothing is.
    pub(crate) fn load(folder: &Path) -> anyhow::Result<Option<Self>> {
        let file = folder.join(FILE);
        match fs::read(&file) {
            Ok(json) => {
                let system = serde_json::from_slice(&json);
                system.map(Some).with_context(|| format!("cannot read {}", file.display()))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
        }
    }
}

impl DataDir {
    /// The NATS to use: the given one, else the running system's, else the default address.
    pub(crate) fn nats_url(&self, given: Option<&str>) -> anyhow::Result<String> {
        match given {
            Some(url) => Ok(url.to_owned()),
            None => Ok(RunningSystem::load(&self.data_dir)?
                .map_or_else(|| "nats://127.0.0.1:4222".to_owned(), |system| system.nats_url)),
        }
    }

    /// The database of a service: the given one, else the running system's.
    pub(crate) fn database_url(
        &self,
        service: &str,
        given: Option<&str>,
    ) -> anyhow::Result<String> {
        if let Some(url) = given {
            return Ok(url.to_owned());
        }
        let Some(mut system) = RunningSystem::load(&self.data_dir)? else {
            bail!(
                "nothing is running from {}: start it with `cargo run`, or pass a database with \
                 --database-url",
                self.data_dir.display()
            )
        };
        system.databases.remove(service).with_context(|| {
            let known: Vec<_> = system.databases.keys().map(String::as_str).collect();
            format!("there is no service {service:?}; there are: {}", known.join(", "))
        })
    }
}
