//! What is going on: streams, queue groups and their members, what waits and what needs a person.

use std::collections::BTreeMap;

use anyhow::{Context, anyhow};
use clap::Args;
use common::bus::{Bus, dead_letters, lease, outbox, shown, without_passwords};
use futures::TryStreamExt;
use serde::Serialize;
use sqlx::{Connection, PgConnection};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use tokio::time::timeout;

use crate::{
    client, listen,
    out::say,
    running::{self, DATABASE_TIMEOUT, RunningSystem},
    services::Service,
};

/// What to show.
#[derive(Debug, Clone, Args)]
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
    services: BTreeMap<String, String>,
    streams: Vec<StreamStatus>,
    members: Vec<Member>,
    databases: BTreeMap<String, DatabaseStatus>,
}

#[derive(Debug, Serialize)]
struct StreamStatus {
    name: String,
    messages: u64,
    last_sequence: u64,
    queue_groups: Vec<GroupStatus>,
}

#[derive(Debug, Serialize)]
struct GroupStatus {
    name: String,
    /// The client id of a listener on its own, which is in no group.
    listener: Option<String>,
    /// Not yet delivered to anyone.
    pending: u64,
    /// Delivered and not yet acknowledged.
    unacknowledged: usize,
    /// Delivered more than once and not yet acknowledged.
    redelivered: usize,
    /// Requests for events that wait for some.
    waiting_pulls: usize,
}

#[derive(Debug, Serialize)]
struct Member {
    client_id: String,
    service: String,
    queue_groups: Vec<String>,
    node: String,
    #[serde(with = "time::serde::rfc3339")]
    since: OffsetDateTime,
}

#[derive(Debug, Serialize)]
struct DatabaseStatus {
    /// How many rows each of the service's tables has.
    #[serde(flatten)]
    rows: BTreeMap<&'static str, i64>,
    /// Events that are not yet published.
    outbox: i64,
    dead_letters: i64,
}

/// Rows are counted up to this many, so that a count does not take longer the more history there is. Of a
/// larger table, Postgres's own estimate is shown.
const COUNTED: i64 = 10_000;

/// Shows it once.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let connection = options.client.connect().await?;
    let system = options.client.system()?;
    let url = without_passwords(&connection.url).into_owned();
    let status = gather(&connection.bus, url, system).await;
    connection.close().await;
    let status = status?;
    if options.json {
        say!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print(&status)?;
    }
    Ok(())
}

async fn gather(
    bus: &Bus,
    nats_url: String,
    system: Option<RunningSystem>,
) -> anyhow::Result<Status> {
    let mut streams = Vec::new();
    let mut found = bus.jetstream.streams();
    while let Some(info) = found.try_next().await.context("cannot list the streams")? {
        // Buckets are streams underneath.
        if info.config.name.starts_with("KV_") {
            continue;
        }
        let stream = bus.jetstream.get_stream_no_info(&info.config.name).await?;
        let mut queue_groups: Vec<_> = stream
            .consumers()
            .map_ok(|consumer| GroupStatus {
                listener: listen::on_its_own(&consumer.config).map(ToOwned::to_owned),
                name: consumer.name,
                pending: consumer.num_pending,
                unacknowledged: consumer.num_ack_pending,
                redelivered: consumer.num_redelivered,
                waiting_pulls: consumer.num_waiting,
            })
            .try_collect()
            .await?;
        queue_groups.sort_by(|one, other| one.name.cmp(&other.name));
        streams.push(StreamStatus {
            name: info.config.name,
            messages: info.state.messages,
            last_sequence: info.state.last_sequence,
            queue_groups,
        });
    }
    let members = lease::holders(bus).await?.into_values().map(|holder| Member {
        client_id: holder.client_id.to_string(),
        service: holder.service,
        queue_groups: holder.queue_groups,
        node: holder.node,
        since: holder.since,
    });
    let mut databases = BTreeMap::new();
    let system = system.map_or_else(Default::default, |system| (system.databases, system.services));
    for (name, url) in system.0 {
        // None when another release has brought the system up, with a service that this one does not know.
        let Some(service) = Service::named(&name) else { continue };
        let status = timeout(2 * DATABASE_TIMEOUT, database(&url, service)).await;
        let status = status.unwrap_or_else(|_| Err(anyhow!("Postgres did not answer in time")));
        let status = status.with_context(|| format!("the database {name}"))?;
        databases.insert(name, status);
    }
    Ok(Status { nats_url, services: system.1, streams, members: members.collect(), databases })
}

async fn database(url: &str, service: &Service) -> anyhow::Result<DatabaseStatus> {
    let mut connection = running::connect(url).await?;
    let (mut rows, mut outbox) = (BTreeMap::new(), 0);
    for table in service.tables {
        rows.insert(*table, count(&mut connection, table).await?);
    }
    for stream in service.streams {
        outbox += outbox::depth(&mut connection, stream.name).await?.unpublished;
    }
    let dead_letters = dead_letters::count(&mut connection, service.queue_group).await?;
    connection.close().await?;
    Ok(DatabaseStatus { rows, outbox, dead_letters })
}

/// How many rows a table has: exactly, up to [`COUNTED`].
async fn count(connection: &mut PgConnection, table: &'static str) -> anyhow::Result<i64> {
    // A name of ours, which cannot be a parameter.
    let counted = sqlx::AssertSqlSafe(format!(
        "select count(*) from (select from {table} limit {COUNTED}) as counted"
    ));
    let counted: i64 = sqlx::query_scalar(counted).fetch_one(&mut *connection).await?;
    if counted < COUNTED {
        return Ok(counted);
    }
    let estimate: i64 =
        sqlx::query_scalar("select reltuples::bigint from pg_class where oid = $1::regclass")
            .bind(table)
            .fetch_one(connection)
            .await?;
    Ok(estimate.max(counted))
}

fn print(status: &Status) -> anyhow::Result<()> {
    say!("NATS {}", status.nats_url);
    for stream in &status.streams {
        say!(
            "\nStream {}: {} events, the newest is #{}",
            shown(&stream.name),
            stream.messages,
            stream.last_sequence
        );
        for group in &stream.queue_groups {
            let who = match &group.listener {
                Some(client_id) => format!("listener {}", shown(client_id)),
                None => format!("queue group {}", shown(&group.name)),
            };
            say!(
                "  {who}: {} pending, {} unacknowledged, {} redelivered, {} waiting pulls",
                group.pending,
                group.unacknowledged,
                group.redelivered,
                group.waiting_pulls
            );
        }
    }
    say!("\n{:<24} {:<10} {:<18} since", "Client id", "service", "queue group");
    for member in &status.members {
        say!(
            "{:<24} {:<10} {:<18} {}  {}",
            member.client_id,
            shown(&member.service),
            shown(&member.queue_groups.join(",")),
            member.since.format(&Rfc3339)?,
            status.services.get(&member.client_id).map_or("", String::as_str),
        );
    }
    if status.databases.is_empty() {
        say!("\nNo system is running from the data folder, so no databases are shown.");
    }
    for (name, database) in &status.databases {
        let rows: Vec<_> =
            database.rows.iter().map(|(table, rows)| format!("{rows} {table}")).collect();
        say!(
            "\nDatabase {name}: {}, {} events to publish, {} dead letters",
            rows.join(", "),
            database.outbox,
            database.dead_letters
        );
    }
    Ok(())
}
