//! The API in this process, on a free port, with a database of its own.

mod answer;
mod database;

use std::{net::Ipv4Addr, ops::Deref};

pub(crate) use answer::Answer;
use common::{
    bus::relay::Wake,
    pod::{database::unhurried, shutdown::Shutdown},
};
use database::Database;
use reqwest::{Client, Method, RequestBuilder, header};
use sqlx::{PgConnection, PgPool};
use tickets::http::{Api, router};
use tokio::net::TcpListener;

pub(crate) struct Service {
    database: Database,
    pub(crate) base: String,
    client: Client,
}

impl Service {
    pub(crate) async fn start() -> Self {
        Self::with_concurrency(64).await
    }

    pub(crate) async fn with_concurrency(concurrent: usize) -> Self {
        let database = migrated().await;
        let pool = database.pool.clone();
        Self::serve(database, pool, concurrent).await
    }

    /// Its statements have no time limit, so that the request's own is what ends it.
    pub(crate) async fn patient() -> Self {
        let database = migrated().await;
        let pool = unhurried(&database.pool.clone().into());
        Self::serve(database, pool, 64).await
    }

    pub(crate) async fn without_database() -> Self {
        let database = Database::away().await;
        let pool = database.pool.clone();
        Self::serve(database, pool, 64).await
    }

    async fn serve(database: Database, for_service: PgPool, concurrent: usize) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        // Another test was first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (shutdown, _) = Shutdown::new();
        let router = router(Api::start(for_service.into(), Wake::default(), &shutdown), concurrent);
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { database, base, client: Client::new() }
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
        self.lock("tickets").await
    }

    /// How many tickets and how many events are committed.
    pub(crate) async fn holds(&self, tickets: i64, events: i64) {
        self.counts("tickets", tickets, events).await;
    }
}

/// What a test asks of the database, it asks of the service that has it.
impl Deref for Service {
    type Target = Database;

    fn deref(&self) -> &Database {
        &self.database
    }
}

async fn migrated() -> Database {
    let database = Database::new("tickets").await;
    tickets::store::migrate(&database.pool).await.unwrap();
    database
}
