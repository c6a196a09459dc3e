//! `status`: the state of servers and processes, streams, queue groups, their members, backlogs and dead
//! letters. Answers within 3 s with what it could find out, and names what did not answer.

mod databases;
mod print;

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, bail};
use async_nats::jetstream::{consumer, stream::StorageType};
use clap::Args;
use common::bus::{Bus, Holder, without_passwords};
use serde::Serialize;
use ticketing_console::sources::{
    monitor::http_client,
    nats::{Nats, NatsReport},
    readiness::readiness,
    replicas::{self, Directory, ReplicaReport, Replicas, State},
};
use time::OffsetDateTime;
use tokio::time::{Instant, timeout};

use crate::{client, listen, out::say, running::RunningSystem};
use databases::DatabaseStatus;
pub(crate) use print::name as name_of;

/// How long each query may take. All run at once.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(2_000);
/// How long NATS may take in addition, to distinguish a frozen server from one that is gone.
const REACH_TIMEOUT: Duration = Duration::from_millis(500);
/// How long closing the connection may take. Nothing is lost if it takes longer.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(300);

/// What to show.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Exit status: 0 if everything answered, 1 if something did not (the rest is shown)."
)]
pub(crate) struct Options {
    /// As JSON, for programs.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    client: client::Options,
}

#[derive(Debug, Serialize)]
struct Status {
    nats_url: String,
    /// The state of NATS, Postgres, each replica of a service, and the console.
    parts: Vec<Part>,
    services: BTreeMap<String, String>,
    /// Empty, like `members`, while NATS does not answer.
    streams: Vec<StreamStatus>,
    members: Vec<Member>,
    /// The databases that answered.
    databases: BTreeMap<String, DatabaseStatus>,
    /// What did not answer, and why.
    unknown: Vec<String>,
}

/// A server or a process.
#[derive(Debug, Serialize)]
struct Part {
    name: String,
    state: State,
    /// Why it is not ready.
    why: String,
}

#[derive(Debug, Serialize)]
struct StreamStatus {
    name: String,
    messages: u64,
    last_sequence: u64,
    /// Whether NATS keeps it in memory.
    in_memory: bool,
    queue_groups: Vec<ConsumerStatus>,
    /// Listeners that are in no group, by client id.
    listeners: Vec<ConsumerStatus>,
}

#[derive(Debug, Serialize)]
struct ConsumerStatus {
    /// The queue group, or the client id of a listener that is in no group.
    name: String,
    /// Not yet delivered.
    pending: u64,
    /// Delivered and not yet acknowledged.
    unacknowledged: usize,
    /// Delivered more than once and not yet acknowledged.
    redelivered: usize,
    /// Pull requests that wait for events.
    waiting_pulls: usize,
}

/// A process that holds a client id. Counts are since the process started; `None` if it has no metrics or does
/// not answer.
#[derive(Debug, Serialize)]
struct Member {
    client_id: String,
    service: String,
    queue_groups: Vec<String>,
    node: String,
    #[serde(with = "time::serde::rfc3339")]
    since: OffsetDateTime,
    /// `None` for a process without probes, such as `listen`: it is alive if its lease is.
    state: Option<State>,
    /// Events received and neither acked nor given back.
    in_hand: Option<f64>,
    acknowledged: Option<f64>,
}

/// Prints the status once.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let system = options.client.system()?;
    let connection = options.client.open().await?;
    let url = without_passwords(&connection.url).into_owned();
    let folder = options.client.data_dir().to_owned();
    let status = gather(&connection.bus, url, system.as_ref(), Some(folder)).await;
    let _ = timeout(CLOSE_TIMEOUT, connection.close()).await;
    let status = status?;
    if options.json {
        say!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print::print(&status, system.is_some())?;
    }
    if !status.unknown.is_empty() {
        let hint = if system.is_some() {
            ""
        } else {
            "; start everything with `cargo run`, or pass another URL with --nats-url"
        };
        bail!("not everything answered: {}{hint}", status.unknown.join("; "));
    }
    Ok(())
}

async fn gather(
    bus: &Bus,
    nats_url: String,
    system: Option<&RunningSystem>,
    data_folder: Option<std::path::PathBuf>,
) -> anyhow::Result<Status> {
    let directory = Directory { services: Vec::new(), data_folder };
    let urls = system.map(|system| system.databases.clone()).unwrap_or_default();
    let ((nats, report), replicas, databases, console) = tokio::join!(
        nats(bus),
        replicas::look(&directory, ANSWER_TIMEOUT),
        databases::look(&urls, ANSWER_TIMEOUT),
        console(system)
    );
    let replicas = replicas.context("cannot query the replicas")?;
    let mut unknown = Vec::new();
    if report.is_none() {
        unknown.push(format!("NATS at {nats_url}: {}", nats.why));
    }
    let mut parts = vec![nats];
    parts.extend(databases::server(&databases));
    parts.extend(replicas.values().map(|ReplicaReport { client_id, state, why, .. }| Part {
        name: client_id.clone(),
        state: *state,
        why: why.clone(),
    }));
    parts.extend(console);
    let mut known = BTreeMap::new();
    for (name, asked) in databases {
        match asked {
            Ok(database) => {
                known.insert(name, database);
            }
            Err(error) => unknown.push(format!("the database {name}: {}", error.why)),
        }
    }
    let services = system.map(|system| system.services.clone()).unwrap_or_default();
    let (streams, members) = report.map(|report| told(report, &replicas)).unwrap_or_default();
    Ok(Status { nats_url, parts, services, streams, members, databases: known, unknown })
}

/// The state of the console, if there is one.
async fn console(system: Option<&RunningSystem>) -> Option<Part> {
    let url = system?.console_url.as_deref()?.parse().ok()?;
    let (state, why) = readiness(&http_client(ANSWER_TIMEOUT).ok()?, &url).await;
    Some(Part { name: "console".to_owned(), state, why })
}

/// The state of NATS, and its report if it answers in time.
async fn nats(bus: &Bus) -> (Part, Option<NatsReport>) {
    let nats = Nats::new(bus.clone());
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    let connected = timeout(ANSWER_TIMEOUT, bus.connected()).await.is_ok();
    let left = deadline.saturating_duration_since(Instant::now());
    let report = if connected { nats.report_within(left).await.ok() } else { None };
    let (state, why) = match report {
        Some(_) => (State::Ready, ""),
        None => nats.state(REACH_TIMEOUT).await,
    };
    (Part { name: "nats".to_owned(), state, why: why.to_owned() }, report)
}

fn told(report: NatsReport, replicas: &Replicas) -> (Vec<StreamStatus>, Vec<Member>) {
    let NatsReport { streams, holders, .. } = report;
    let streams = streams.into_iter().map(|stream| StreamStatus {
        name: stream.info.config.name,
        messages: stream.info.state.messages,
        in_memory: stream.info.config.storage == StorageType::Memory,
        last_sequence: stream.info.state.last_sequence,
        queue_groups: stream.groups.into_iter().map(ConsumerStatus::from).collect(),
        listeners: stream.listeners.into_iter().map(ConsumerStatus::from).collect(),
    });
    let members = holders.into_iter().map(|holder| Member::new(holder, replicas));
    (streams.collect(), members.collect())
}

impl From<consumer::Info> for ConsumerStatus {
    fn from(consumer: consumer::Info) -> Self {
        let listener = listen::on_its_own(&consumer.config).map(ToOwned::to_owned);
        Self {
            name: listener.unwrap_or(consumer.name),
            pending: consumer.num_pending,
            unacknowledged: consumer.num_ack_pending,
            redelivered: consumer.num_redelivered,
            waiting_pulls: consumer.num_waiting,
        }
    }
}

impl Member {
    fn new(holder: Holder, replicas: &Replicas) -> Self {
        let client_id = holder.client_id.to_string();
        let replica = replicas.values().find(|replica| replica.client_id == client_id);
        let answers = replica.filter(|replica| replica.state.answers());
        let number = |name| answers.and_then(|replica| replica.samples.sum(name, &[]));
        let in_group = !holder.queue_groups.is_empty();
        // A counter that has not counted anything yet is not in the metrics.
        let nothing = answers.filter(|_| in_group).map(|_| 0.0);
        Self {
            in_hand: number("bus_in_hand").or(nothing),
            acknowledged: number("bus_acked_total").or(nothing),
            state: replica.map(|replica| replica.state),
            client_id,
            service: holder.service,
            queue_groups: holder.queue_groups,
            node: holder.node,
            since: holder.since,
        }
    }
}
