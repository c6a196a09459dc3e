//! A database of its own for each test, on a server that the tests of this process share. The tests of
//! orders include this file as well.

use std::{sync::Arc, time::Duration};

use common::{
    bus,
    pod::{client_id::ClientId, config::DatabaseSettings, database},
};
use embedded::{Postgres, ports};
use sqlx::{
    AssertSqlSafe, Connection, Executor, PgConnection, PgPool,
    decode::Decode,
    postgres::{PgConnectOptions, PgPoolOptions},
    types::Type,
};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

/// How long a test waits for a condition before it says that it never came.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Database {
    pub(crate) pool: PgPool,
    _server: Option<Arc<Postgres>>,
}

impl Database {
    /// A new one with the bus's schema, for this service.
    pub(crate) async fn new(service: &str) -> Self {
        let server = Postgres::shared().await.unwrap();
        let name = format!("{service}_{}", Uuid::new_v4().simple());
        let settings = DatabaseSettings {
            database_url: server.create_database(&name).await.unwrap().into(),
            database_max_connections: 16,
        };
        let client_id: ClientId = format!("{service}-under-test").parse().unwrap();
        let service = database::connect(&settings, &client_id).await.unwrap();
        let pool = PgPool::connect_lazy_with(PgConnectOptions::clone(&service.connect_options()));
        bus::migrate(&pool).await.unwrap();
        Self { pool, _server: Some(server) }
    }

    /// Nobody listens where it should be.
    pub(crate) async fn away() -> Self {
        let port = ports::free().unwrap();
        let pool = PgPoolOptions::new()
            .acquire_timeout(Duration::from_millis(200))
            .connect_lazy(&format!("postgres://nobody@127.0.0.1:{port}/nothing"))
            .unwrap();
        Self { pool, _server: None }
    }

    /// Locks a table until the connection is closed.
    pub(crate) async fn lock(&self, table: &str) -> PgConnection {
        let mut connection =
            PgConnection::connect_with(&self.pool.connect_options()).await.unwrap();
        connection.execute("set idle_in_transaction_session_timeout = 0").await.unwrap();
        let lock = format!("begin; lock table {table} in access exclusive mode");
        connection.execute(AssertSqlSafe(lock)).await.unwrap();
        connection
    }

    pub(crate) async fn execute(&self, sql: &str) {
        sqlx::query(AssertSqlSafe(sql)).execute(&self.pool).await.unwrap();
    }

    /// The single value of a query.
    pub(crate) async fn one<T>(&self, sql: &str) -> T
    where
        T: for<'r> Decode<'r, sqlx::Postgres> + Type<sqlx::Postgres> + Send + Unpin,
    {
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&self.pool).await.unwrap()
    }

    /// Waits until a query says so.
    pub(crate) async fn until(&self, condition: &str) {
        let wait = async {
            while !self.one::<bool>(condition).await {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {condition}"));
    }

    /// Waits until something is so.
    #[allow(dead_code, reason = "not every test that includes this file waits so")]
    pub(crate) async fn eventually(&self, what: &str, condition: impl AsyncFn() -> bool) {
        let wait = async {
            while !condition().await {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
    }

    /// How many rows of a table and how many events are committed.
    pub(crate) async fn counts(&self, table: &str, rows: i64, events: i64) {
        let counted = [
            self.one::<i64>(&format!("select count(*) from {table}")).await,
            self.one("select count(*) from bus.log").await,
        ];
        assert_eq!(counted, [rows, events], "{table} and events");
    }
}
