//! Runs the API in this process, on a free port, with its own database, and with sellers who use
//! it.

use std::{net::Ipv4Addr, ops::Deref};

use common::{
    bus::{Shutdown, Wake},
    pod::{
        auth::{AuthSettings, Scheme},
        database::migration_pool,
        http::{
            MiddlewareSettings,
            server::{self, Bounds},
        },
    },
};
use reqwest::{Client, Method, RequestBuilder, header};
use sqlx::{PgConnection, PgPool};
pub(crate) use testkit::Answer;
use testkit::{Database, install_crypto, tokens};
use tickets::{
    http::{Api, router},
    sellers::Sellers,
};

/// The seller of tests that name none.
const SELLER: &str = "sally";

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
        let settings = MiddlewareSettings { concurrent, ..MiddlewareSettings::default() };
        Self::serve(database, pool, sellers(&tokens::settings(Scheme::Hs256), None), &settings)
    }

    pub(crate) async fn with_sellers(sellers: Sellers) -> Self {
        let database = migrated().await;
        let pool = database.pool.clone();
        Self::serve(database, pool, sellers, &MiddlewareSettings::default())
    }

    /// Starts a service whose statements have no time limit, so that the request's own limit ends
    /// them.
    pub(crate) async fn patient() -> Self {
        let database = migrated().await;
        let pool = migration_pool(&database.pool.clone().into());
        let sellers = sellers(&tokens::settings(Scheme::Hs256), None);
        Self::serve(database, pool, sellers, &MiddlewareSettings::default())
    }

    pub(crate) async fn without_database() -> Self {
        let database = Database::away().await;
        let pool = database.pool.clone();
        let sellers = sellers(&tokens::settings(Scheme::Hs256), None);
        Self::serve(database, pool, sellers, &MiddlewareSettings::default())
    }

    fn serve(
        database: Database,
        for_service: PgPool,
        sellers: Sellers,
        settings: &MiddlewareSettings,
    ) -> Self {
        let listener = server::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        install_crypto();
        let (shutdown, _) = Shutdown::new();
        let api = Api::start(for_service.into(), Wake::default(), sellers, &shutdown);
        let router = router(api, settings);
        tokio::spawn(server::serve(listener, router, Bounds::default(), shutdown));
        Self { database, base, client: Client::new() }
    }

    /// A seller with a token.
    pub(crate) fn seller(&self, name: &str) -> Seller<'_> {
        self.bearer(tokens::hs256(&tokens::claims(name)))
    }

    pub(crate) fn bearer(&self, token: String) -> Seller<'_> {
        Seller { service: self, token }
    }

    /// A request without a token.
    pub(crate) fn anonymous(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    /// A request of the default seller.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.seller(SELLER).request(method, path)
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path)).await
    }

    pub(crate) fn posting(&self, body: &str) -> RequestBuilder {
        self.seller(SELLER).posting(body)
    }

    pub(crate) async fn post(&self, body: &str) -> Answer {
        Answer::of(self.posting(body)).await
    }

    pub(crate) async fn post_with_key(&self, key: &str, body: &str) -> Answer {
        self.seller(SELLER).post_with_key(key, body).await
    }

    /// Changes a ticket. An empty `if_match` is not sent.
    pub(crate) async fn put(&self, id: &str, if_match: &str, body: &str) -> Answer {
        self.seller(SELLER).put(id, if_match, body).await
    }

    /// Locks the tickets until the connection is closed.
    pub(crate) async fn lock_tickets(&self) -> PgConnection {
        self.lock("tickets").await
    }

    /// Checks how many tickets and events are committed.
    pub(crate) async fn holds(&self, tickets: i64, events: i64) {
        self.counts("tickets", tickets, events).await;
    }
}

/// A client that sends a token with each request.
pub(crate) struct Seller<'a> {
    service: &'a Service,
    token: String,
}

impl Seller<'_> {
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.service.anonymous(method, path).bearer_auth(&self.token)
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

    /// Changes a ticket. An empty `if_match` is not sent.
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
}

/// Gives tests direct access to the service's database.
impl Deref for Service {
    type Target = Database;

    fn deref(&self) -> &Database {
        &self.database
    }
}

/// Sellers with these settings; if they turn tokens off, every caller is `local`.
pub(crate) fn sellers(settings: &AuthSettings, of_old_tickets: Option<&str>) -> Sellers {
    let of_old_tickets = of_old_tickets.map(|name| name.parse().unwrap());
    Sellers::new(settings, &"local".parse().unwrap(), of_old_tickets.as_ref()).unwrap()
}

async fn migrated() -> Database {
    Database::new("tickets", tickets::store::migrate).await
}
