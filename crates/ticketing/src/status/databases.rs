//! Queries the services' databases, all at once, each with a timeout.

use std::{collections::BTreeMap, time::Duration};

use common::bus::{dead_letters, outbox};
use futures::future::join_all;
use serde::Serialize;
use sqlx::{Connection, PgConnection};
use ticketing_console::sources::replicas::State;
use tokio::time::timeout;

use super::Part;
use crate::{postgres::Unanswered, services::Service};

/// Rows are counted up to this many, so that the cost does not grow with history. For a larger table,
/// Postgres's own estimate is shown.
const COUNTED: i64 = 10_000;

#[derive(Debug, Serialize)]
pub(super) struct DatabaseStatus {
    /// The number of rows in each of the service's tables.
    #[serde(flatten)]
    pub(super) rows: BTreeMap<&'static str, i64>,
    /// Events not yet published.
    pub(super) outbox: i64,
    pub(super) dead_letters: i64,
}

pub(super) type Asked = Result<DatabaseStatus, Unanswered>;

/// Queries each of these databases, by service.
pub(super) async fn look(urls: &BTreeMap<String, String>, limit: Duration) -> Vec<(String, Asked)> {
    // Skips services that this release does not know, in case another release started the system.
    let known = urls.iter().filter_map(|(name, url)| Some((name, url, Service::named(name)?)));
    let asked = known.map(async |(name, url, service)| {
        let answer = timeout(limit, database(url, service)).await;
        let answer = answer.map_err(|_| Unanswered::silent());
        (name.clone(), answer.and_then(|answer| answer.map_err(Unanswered::from)))
    });
    join_all(asked).await
}

/// The state of Postgres. `None` if no database is known.
pub(super) fn server(asked: &[(String, Asked)]) -> Option<Part> {
    let failed = asked.iter().find_map(|(_, answer)| answer.as_ref().err());
    let (state, why) = match failed {
        None if asked.is_empty() => return None,
        None => (State::Ready, String::new()),
        Some(failed) => (failed.state, failed.why.clone()),
    };
    Some(Part { name: "postgres".to_owned(), state, why })
}

async fn database(url: &str, service: &Service) -> Result<DatabaseStatus, sqlx::Error> {
    let mut connection = PgConnection::connect(url).await?;
    let (mut rows, mut outbox) = (BTreeMap::new(), 0);
    for table in service.tables {
        rows.insert(*table, count(&mut connection, table).await?);
    }
    for stream in service.events.streams() {
        outbox += outbox::depth(&mut connection, stream.name).await?.unpublished;
    }
    let dead_letters = dead_letters::count(&mut connection, service.events.queue_group).await?;
    connection.close().await?;
    Ok(DatabaseStatus { rows, outbox, dead_letters })
}

/// How many rows a table has: exactly, up to [`COUNTED`].
async fn count(connection: &mut PgConnection, table: &'static str) -> Result<i64, sqlx::Error> {
    // The table name comes from our own code; it cannot be a parameter.
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
