//! The API in this process, on a free port, with a database of its own.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Weak},
    time::Duration,
};

use axum::http::{HeaderMap, StatusCode};
use common::{
    bus::{self, relay::Wake},
    pod::{client_id::ClientId, config::DatabaseSettings, database, shutdown::Shutdown},
};
use embedded::Postgres;
use reqwest::{Client, Method, RequestBuilder, header};
use serde_json::Value;
use sqlx::{
    Connection, Executor, PgConnection, PgPool, decode::Decode, postgres::PgPoolOptions,
    types::Type,
};
use tickets::http::{Api, router};
use tokio::{net::TcpListener, sync::Mutex, time::sleep};
use uuid::Uuid;

/// How long a test waits for a condition before it says that it never came.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Service {
    pub(crate) pool: PgPool,
    pub(crate) base: String,
    client: Client,
    _server: Option<Arc<Postgres>>,
}

impl Service {
    pub(crate) async fn start() -> Self {
        Self::with_concurrency(64).await
    }

    pub(crate) async fn with_concurrency(concurrent: usize) -> Self {
        let (pool, server) = database().await;
        Self::serve(pool.clone(), pool, concurrent, Some(server)).await
    }

    /// Its statements have no time limit, so that the request's own is what ends it.
    pub(crate) async fn patient() -> Self {
        let (pool, server) = database().await;
        Self::serve(pool.clone(), database::unhurried(&pool), 64, Some(server)).await
    }

    /// Nobody listens where its database should be.
    pub(crate) async fn without_database() -> Self {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let pool = PgPoolOptions::new()
            .acquire_timeout(Duration::from_millis(200))
            .connect_lazy(&format!("postgres://nobody@127.0.0.1:{port}/nothing"))
            .unwrap();
        Self::serve(pool.clone(), pool, 64, None).await
    }

    async fn serve(
        pool: PgPool,
        for_service: PgPool,
        concurrent: usize,
        server: Option<Arc<Postgres>>,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        // Another test was first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (shutdown, _) = Shutdown::new();
        let router = router(Api::start(for_service, Wake::default(), &shutdown), concurrent);
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { pool, base, client: Client::new(), _server: server }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path)).await
    }

    pub(crate) fn posting(&self, body: &str) -> RequestBuilder {
        self.request(Method::POST, "/api/tickets")
            .header(header::CONTENT_TYPE, "application/json")
            .body(body.to_owned())
    }

    pub(crate) async fn post(&self, body: &str) -> Answer {
        Answer::of(self.posting(body)).await
    }

    pub(crate) async fn post_with_key(&self, key: &str, body: &str) -> Answer {
        let key = header::HeaderValue::from_bytes(key.as_bytes()).unwrap();
        Answer::of(self.posting(body).header("idempotency-key", key)).await
    }

    /// Changes a ticket; an empty `if_match` is not sent.
    pub(crate) async fn put(&self, id: &str, if_match: &str, body: &str) -> Answer {
        let mut request = self
            .request(Method::PUT, &format!("/api/tickets/{id}"))
            .header(header::CONTENT_TYPE, "application/json; charset=utf-8")
            .body(body.to_owned());
        if !if_match.is_empty() {
            request = request.header(header::IF_MATCH, if_match);
        }
        Answer::of(request).await
    }

    /// Locks the tickets until the connection is closed.
    pub(crate) async fn lock_tickets(&self) -> PgConnection {
        let mut connection =
            PgConnection::connect_with(&self.pool.connect_options()).await.unwrap();
        connection.execute("set idle_in_transaction_session_timeout = 0").await.unwrap();
        connection.execute("begin; lock table tickets in access exclusive mode").await.unwrap();
        connection
    }

    pub(crate) async fn execute(&self, sql: &'static str) {
        sqlx::query(sql).execute(&self.pool).await.unwrap();
    }

    /// The single value of a query.
    pub(crate) async fn one<T>(&self, sql: &str) -> T
    where
        T: for<'r> Decode<'r, sqlx::Postgres> + Type<sqlx::Postgres> + Send + Unpin,
    {
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&self.pool).await.unwrap()
    }

    /// Waits until a query says so.
    pub(crate) async fn until(&self, condition: &str) {
        let wait = async {
            while !self.one::<bool>(condition).await {
                sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {condition}"));
    }

    /// How many tickets and how many events are committed.
    pub(crate) async fn holds(&self, tickets: i64, events: i64) {
        let counts: (i64, i64) = sqlx::query_as(
            "select (select count(*) from tickets), (select count(*) from bus.outbox)",
        )
        .fetch_one(&self.pool)
        .await
        .unwrap();
        assert_eq!(counts, (tickets, events));
    }
}

/// A response that was read to its end.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) async fn of(request: RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        Self { status, headers, body: response.text().await.unwrap() }
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{}", self.body))
    }

    pub(crate) fn id(&self) -> String {
        self.json()["id"].as_str().unwrap_or_else(|| panic!("{}", self.body)).to_owned()
    }

    /// It has this status, and is a problem that says so.
    pub(crate) fn is_problem(&self, status: StatusCode) {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["status"], status.as_u16());
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{}", self.body);
    }

    pub(crate) fn detail(&self) -> String {
        self.json()["detail"].as_str().unwrap_or_default().to_owned()
    }

    /// Each field that was refused, and why.
    pub(crate) fn errors(&self) -> Vec<(String, String)> {
        let errors = self.json()["errors"].as_array().cloned().unwrap_or_default();
        let text = |error: &Value, key: &str| error[key].as_str().unwrap().to_owned();
        errors.iter().map(|error| (text(error, "field"), text(error, "message"))).collect()
    }

    /// It is a problem that refuses exactly these fields, for these reasons.
    pub(crate) fn refuses(&self, status: StatusCode, fields: &[(&str, &str)]) {
        self.is_problem(status);
        let given = self.errors();
        let given: Vec<(&str, &str)> = given.iter().map(|(a, b)| (&**a, &**b)).collect();
        assert_eq!(given, fields);
    }
}

/// A new database with the service's schema, on a server that the tests of this process share.
async fn database() -> (PgPool, Arc<Postgres>) {
    static SERVER: Mutex<Weak<Postgres>> = Mutex::const_new(Weak::new());
    let server = {
        let mut shared = SERVER.lock().await;
        match shared.upgrade() {
            Some(server) => server,
            None => {
                // Nothing here outlives the server, so no commit needs to wait for the disk.
                let server = Arc::new(Postgres::builder().fsync(false).start().await.unwrap());
                *shared = Arc::downgrade(&server);
                server
            }
        }
    };
    let name = format!("tickets_{}", Uuid::new_v4().simple());
    let settings = DatabaseSettings {
        database_url: server.create_database(&name).await.unwrap(),
        database_max_connections: 16,
    };
    let client_id: ClientId = "tickets-under-test".parse().unwrap();
    let pool = database::connect(&settings, &client_id).await.unwrap();
    bus::migrate(&pool).await.unwrap();
    tickets::store::migrate(&pool).await.unwrap();
    (pool, server)
}
