//! A database for each test, on a server that the tests of this process share. The tables are
//! created once, in a template; each database is a copy of it.

use std::{sync::Arc, time::Duration};

use common::{
    bus::{self, ClientId},
    pod::{
        config::DatabaseSettings,
        database::{self, migration_pool},
    },
};
use embedded::{Postgres, ports};
use sqlx::{
    AssertSqlSafe, Connection, Executor, PgConnection, PgPool,
    decode::Decode,
    postgres::{PgConnectOptions, PgPoolOptions},
    types::Type,
};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::until;

/// How many connections the pool of a service under test has.
const CONNECTIONS: u32 = 16;

/// A database, and the server that it is on.
#[derive(Debug)]
pub struct Database {
    /// Connections with the limits that a service has on its statements and transactions.
    pub pool: PgPool,
    _server: Option<Arc<Postgres>>,
}

#[allow(clippy::missing_panics_doc, reason = "every function here panics when the database fails")]
impl Database {
    /// A new database with the tables of the bus and those that a service migrates.
    pub async fn new(
        service: &str,
        migrate: impl AsyncFnOnce(&PgPool) -> anyhow::Result<()>,
    ) -> Self {
        let server = Postgres::shared().await.unwrap();
        let template = template(&server, service, migrate).await;
        let name = format!("{service}_{}", Uuid::new_v4().simple());
        let url = server.copy_database(&template, &name).await.unwrap();
        let pool = PgPool::connect_lazy_with(options(url, service).await);
        Self { pool, _server: Some(server) }
    }

    /// A database whose server is down: nothing listens on its port.
    pub async fn away() -> Self {
        let port = ports::free().unwrap();
        let pool = PgPoolOptions::new()
            .acquire_timeout(Duration::from_millis(200))
            .connect_lazy(&format!("postgres://nobody@127.0.0.1:{port}/nothing"))
            .unwrap();
        Self { pool, _server: None }
    }

    /// Locks a table until the connection is closed.
    pub async fn lock(&self, table: &str) -> PgConnection {
        let mut connection =
            PgConnection::connect_with(&self.pool.connect_options()).await.unwrap();
        connection.execute("set idle_in_transaction_session_timeout = 0").await.unwrap();
        let lock = format!("begin; lock table {table} in access exclusive mode");
        connection.execute(AssertSqlSafe(lock)).await.unwrap();
        connection
    }

    /// Runs a statement, without the limit that a service has on its statements: on a busy machine, filling a table
    /// takes longer.
    pub async fn execute(&self, sql: &str) {
        let mut connection = self.pool.acquire().await.unwrap();
        connection.execute("set statement_timeout = 0").await.unwrap();
        sqlx::query(AssertSqlSafe(sql)).execute(&mut *connection).await.unwrap();
        connection.execute("reset statement_timeout").await.unwrap();
    }

    /// The single value of a query.
    pub async fn one<T>(&self, sql: &str) -> T
    where
        T: for<'r> Decode<'r, sqlx::Postgres> + Type<sqlx::Postgres> + Send + Unpin,
    {
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&self.pool).await.unwrap()
    }

    /// Waits until a query returns true.
    pub async fn until(&self, condition: &str) {
        until(condition, async || self.one::<bool>(condition).await).await;
    }

    /// Checks how many rows of a table and how many events are committed.
    pub async fn counts(&self, table: &str, rows: i64, events: i64) {
        let counted = [
            self.one::<i64>(&format!("select count(*) from {table}")).await,
            self.one("select count(*) from bus.log").await,
        ];
        assert_eq!(counted, [rows, events], "{table} and events");
    }
}

/// Returns the name of the template: a database with a service's tables, from which its tests'
/// databases are copied.
///
/// The first test of a process creates it, and the others wait. Concurrent migrations on one server
/// would take turns and slow the machine down. It is migrated like a service's database, without a
/// statement timeout, and is renamed once it is complete.
async fn template(
    server: &Postgres,
    service: &str,
    migrate: impl AsyncFnOnce(&PgPool) -> anyhow::Result<()>,
) -> String {
    static MAKING: Mutex<()> = Mutex::const_new(());
    let _making = MAKING.lock().await;
    let name = format!("{service}_template");
    let mut connection = PgConnection::connect(&server.url("postgres")).await.unwrap();
    let exists: bool =
        sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
            .bind(&name)
            .fetch_one(&mut connection)
            .await
            .unwrap();
    if !exists {
        let unfinished = format!("{service}_{}", Uuid::new_v4().simple());
        let url = server.create_database(&unfinished).await.unwrap();
        let pool = migration_pool(&PgPool::connect_lazy_with(options(url, service).await).into());
        bus::migrate(&pool).await.unwrap();
        common::pod::migrate(&pool).await.unwrap();
        migrate(&pool).await.unwrap();
        pool.close().await;
        let rename = format!("alter database {unfinished} rename to {name}");
        connection.execute(AssertSqlSafe(rename)).await.unwrap();
    }
    connection.close().await.unwrap();
    name
}

/// Returns the options with which a service connects to the database at this URL.
async fn options(url: String, service: &str) -> PgConnectOptions {
    let settings =
        DatabaseSettings { database_url: url.into(), database_max_connections: CONNECTIONS };
    let client_id: ClientId = format!("{service}-under-test").parse().unwrap();
    let pool = database::connect(&settings, &client_id).await.unwrap();
    PgConnectOptions::clone(&pool.connect_options())
}
