//! Asks each replica of a service for `/readyz` and `/metrics`, independently of the others: one that is frozen
//! delays no other.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use anyhow::Context;
use futures::future::join_all;
use reqwest::{Client, Url};
use serde::Deserialize;
use tokio::{
    net::lookup_host,
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};
use tracing::debug;

use super::{
    ANSWER_TIMEOUT, ASK_EVERY,
    monitor::{get, http_client},
    readiness::readiness,
    samples::Samples,
};
use common::bus::Shutdown;

pub use super::readiness::State;

/// The largest metrics that are read, in bytes.
const LARGEST: usize = 2 * 1024 * 1024;
/// The most replicas that are asked.
const MAX_REPLICAS: usize = 200;

/// A service, and where its replicas' probes and metrics are: `orders=http://orders-operations:9000`. Every
/// address that the host name resolves to is a replica; without any, the service itself is reported as down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAt {
    /// The service's name.
    pub service: String,
    /// Where its replicas are.
    pub url: Url,
}

impl FromStr for ServiceAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const WANTED: &str = "it must be NAME=URL, such as orders=http://orders-operations:9000";
        let (service, url) = text.split_once('=').ok_or(WANTED)?;
        let url: Url = url.parse().map_err(|_| WANTED)?;
        let fits = !service.is_empty() && url.scheme() == "http" && url.host_str().is_some();
        fits.then(|| Self { service: service.to_owned(), url }).ok_or_else(|| WANTED.to_owned())
    }
}

/// What is known of a replica.
#[derive(Debug, Clone)]
pub struct ReplicaReport {
    /// Its client id, or its address while that is not known.
    pub client_id: String,
    /// The service it belongs to.
    pub service: String,
    /// Its state.
    pub state: State,
    /// Why it is not ready.
    pub why: String,
    /// Its metrics when it last answered.
    pub samples: Samples,
}

/// All replicas by their URL.
pub type Replicas = BTreeMap<String, ReplicaReport>;

/// Where replicas are.
#[derive(Debug, Clone)]
pub struct Directory {
    /// Services by name.
    pub services: Vec<ServiceAt>,
    /// The data folder of a system that `cargo run` started.
    pub data_folder: Option<PathBuf>,
}

/// The part of `stack.json` that is needed here.
#[derive(Debug, Default, Deserialize)]
struct RunningSystem {
    services: BTreeMap<String, String>,
    /// The URLs of probes, metrics and the operations API, by client id.
    #[serde(default)]
    operations: BTreeMap<String, String>,
    /// The console's URL, once it is up.
    #[serde(default)]
    console_url: Option<String>,
    /// Whether its links can be cut.
    #[serde(default)]
    cuttable: bool,
}

/// A replica to ask.
#[derive(Debug, Clone)]
struct Target {
    url: Url,
    service: String,
    client_id: Option<String>,
}

impl Directory {
    /// The URLs of the processes' APIs by client id, as `cargo run` recorded them.
    pub async fn on_this_machine(&self) -> BTreeMap<String, String> {
        self.running_system().await.services
    }

    /// The URL of that system's console, once it is up.
    pub async fn console(&self) -> Option<Url> {
        self.running_system().await.console_url?.parse().ok()
    }

    /// Whether the links of that system can be cut.
    pub async fn is_cuttable(&self) -> bool {
        self.running_system().await.cuttable
    }

    async fn running_system(&self) -> RunningSystem {
        let Some(folder) = &self.data_folder else { return RunningSystem::default() };
        let read = tokio::fs::read(folder.join("stack.json")).await;
        read.ok().and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default()
    }

    async fn targets(&self) -> Vec<Target> {
        let mut targets: Vec<Target> = Vec::new();
        for (client_id, url) in self.running_system().await.operations {
            let Ok(url) = url.parse() else { continue };
            let service = client_id.trim_end_matches(|c: char| c.is_ascii_digit());
            let service = service.trim_end_matches('-').to_owned();
            targets.push(Target { url, service, client_id: Some(client_id) });
        }
        for ServiceAt { service, url } in &self.services {
            let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
            let port = url.port_or_known_default().unwrap_or(80);
            let found = timeout(ANSWER_TIMEOUT, lookup_host((host, port))).await;
            let addresses: BTreeSet<_> = found.into_iter().flatten().flatten().collect();
            if addresses.is_empty() {
                // A service without replicas must be seen to be down, not be absent.
                let client_id = Some(service.clone());
                targets.push(Target { url: url.clone(), service: service.clone(), client_id });
            }
            for address in addresses {
                let mut url = url.clone();
                if url.set_ip_host(address.ip()).is_ok() {
                    targets.push(Target { url, service: service.clone(), client_id: None });
                }
            }
        }
        targets.truncate(MAX_REPLICAS);
        targets
    }
}

/// Asks every replica once.
///
/// # Errors
/// When no HTTP client can be made.
pub async fn look(directory: &Directory, limit: Duration) -> anyhow::Result<Replicas> {
    let (client, mut known) = (http_client(limit)?, Replicas::new());
    let targets = directory.targets().await;
    let asked = targets.into_iter().map(|target| ask(client.clone(), target));
    for (target, answer) in join_all(asked).await {
        note(&mut known, target, answer);
    }
    Ok(known)
}

/// Asks every replica periodically until the process stops, and keeps `known` up to date.
///
/// # Errors
/// When no HTTP client can be made.
pub async fn follow(
    directory: Directory,
    known: watch::Sender<Replicas>,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let client = http_client(ANSWER_TIMEOUT)?;
    let (mut tick, mut asked) = (interval(ASK_EVERY), JoinSet::new());
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut open = BTreeSet::new();
    loop {
        tokio::select! {
            () = shutdown.begun() => return Ok(()),
            _ = tick.tick() => {
                let targets = directory.targets().await;
                let urls: BTreeSet<String> = targets.iter().map(|target| target.url.to_string()).collect();
                known.send_if_modified(|known| {
                    let before = known.len();
                    known.retain(|url, _| urls.contains(url));
                    known.len() != before
                });
                for target in targets {
                    if open.insert(target.url.to_string()) {
                        asked.spawn(ask(client.clone(), target));
                    }
                }
            }
            Some(Ok((target, answer))) = asked.join_next() => {
                open.remove(target.url.as_str());
                known.send_modify(|known| note(known, target, answer));
            }
        }
    }
}

/// What a replica answered.
struct Answer {
    state: State,
    why: String,
    samples: Option<Samples>,
}

fn note(known: &mut Replicas, target: Target, answer: Answer) {
    let url = target.url.to_string();
    let before = known.get(&url);
    let samples = answer.samples.or_else(|| before.map(|before| before.samples.clone()));
    let samples = samples.unwrap_or_default();
    let said = samples.label("process_info", "client_id").next().map(ToOwned::to_owned);
    let address = || target.url.authority().to_owned();
    let client_id = target.client_id.or(said).unwrap_or_else(address);
    let (state, why) = (answer.state, answer.why);
    known.insert(url, ReplicaReport { client_id, service: target.service, state, why, samples });
}

async fn ask(client: Client, target: Target) -> (Target, Answer) {
    // Both at once, so that a frozen replica costs one timeout.
    let ready = readiness(&client, &target.url);
    let (ready, samples) = tokio::join!(ready, metrics(&client, &target));
    let samples = samples.inspect_err(|error| debug!(%error, "no metrics")).ok();
    let (state, why) = ready;
    (target, Answer { state, why, samples })
}

async fn metrics(client: &Client, target: &Target) -> anyhow::Result<Samples> {
    let url = target.url.join("metrics").context("no URL")?;
    let body = get(client, url, LARGEST).await?;
    Ok(Samples::read(&String::from_utf8_lossy(&body)))
}
