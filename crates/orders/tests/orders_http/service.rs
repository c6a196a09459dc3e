//! Runs the API in this process, on a free port, with its own database and payment provider, and
//! with buyers who use it.

use std::{net::Ipv4Addr, ops::Deref, sync::Arc, time::Duration};

use common::{
    bus::{Shutdown, Wake},
    events::ticket::Ticket,
    pod::{
        auth::{Auth, AuthSettings, Scheme},
        http::{
            MiddlewareSettings,
            server::{self, Bounds},
        },
    },
};
use orders::{
    capture, expiry,
    http::{Api, router},
    limit::Limit,
    reservations::Reservations,
    store::tickets::{self, Copied},
};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::Value;
use sqlx::{PgPool, postgres::PgConnectOptions};
pub(crate) use testkit::Answer;
use testkit::{Database, install_crypto, tokens, until};
use uuid::Uuid;

pub(crate) use crate::buyer::Buyer;
use crate::provider::Recorder;

/// Long enough to outlast every test; tests that need its end move it.
pub(crate) const RESERVATION: Duration = Duration::from_mins(15);

pub(crate) struct Service {
    database: Database,
    pub(crate) base: String,
    pub(crate) client: Client,
    pub(crate) provider: Arc<Recorder>,
    api: Api,
}

/// Serves an API in the background. Returns its URL.
fn start(api: Api) -> String {
    let listener = server::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let (shutdown, _) = Shutdown::new();
    let router = router(api, &MiddlewareSettings::default());
    tokio::spawn(server::serve(listener, router, Bounds::default(), shutdown));
    base
}

impl Service {
    /// Starts a service whose buyers have HS256 tokens.
    pub(crate) async fn start() -> Self {
        let auth = auth(&tokens::settings(Scheme::Hs256)).unwrap();
        Self::with(auth, RESERVATION).await
    }

    /// Starts a service that allows each buyer this many reservations.
    pub(crate) async fn with_limit(most: u16) -> Self {
        let database = Database::new("orders", orders::store::migrate).await;
        let auth = auth(&tokens::settings(Scheme::Hs256)).unwrap();
        Self::serve(database, auth, RESERVATION, Limit::AtMost(most)).await
    }

    pub(crate) async fn with_auth(auth: Auth) -> Self {
        Self::with(auth, RESERVATION).await
    }

    pub(crate) async fn with_reservation(reservation: Duration) -> Self {
        let auth = auth(&tokens::settings(Scheme::Hs256)).unwrap();
        Self::with(auth, reservation).await
    }

    async fn with(auth: Auth, reservation: Duration) -> Self {
        let database = Database::new("orders", orders::store::migrate).await;
        Self::serve(database, auth, reservation, Limit::Off).await
    }

    pub(crate) async fn without_database() -> Self {
        let auth = auth(&tokens::settings(Scheme::Hs256)).unwrap();
        Self::serve(Database::away().await, auth, RESERVATION, Limit::Off).await
    }

    async fn serve(database: Database, auth: Auth, reservation: Duration, limit: Limit) -> Self {
        install_crypto();
        let (pool, wake) = (database.pool.clone(), Wake::default());
        let provider = Arc::new(Recorder::new(pool.clone()));
        let reservations = Reservations { time: reservation, limit };
        let (shutdown, _) = Shutdown::new();
        let api = Api::start(pool.into(), wake, auth, provider.clone(), reservations, &shutdown);
        let base = start(api.clone());
        Self { database, base, client: Client::new(), provider, api }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path)).await
    }

    /// Starts another replica on the same database, with its own connections. Returns its URL.
    pub(crate) async fn replica(&self) -> String {
        let options = PgConnectOptions::clone(&self.pool.connect_options());
        let pool = PgPool::connect_lazy_with(options).into();
        let Api { wake, auth, provider, reservations, .. } = self.api.clone();
        let (shutdown, _) = Shutdown::new();
        start(Api::start(pool, wake, auth, provider, reservations, &shutdown))
    }

    /// A buyer with a token.
    pub(crate) fn buyer(&self, name: &str) -> Buyer<'_> {
        self.bearer(tokens::hs256(&tokens::claims(name)))
    }

    pub(crate) fn bearer(&self, token: String) -> Buyer<'_> {
        Buyer { service: self, base: self.base.clone(), token }
    }

    /// Creates a ticket, as if from an event.
    pub(crate) async fn ticket(&self, price: &str) -> Uuid {
        let id = Uuid::now_v7();
        self.known_ticket(id, price).await;
        id
    }

    pub(crate) async fn known_ticket(&self, id: Uuid, price: &str) {
        let ticket = Ticket { id, price: price.parse().unwrap(), ..Ticket::example() };
        let state = serde_json::from_str(&serde_json::to_string(&ticket).unwrap()).unwrap();
        let event_id = Uuid::now_v7();
        let copy = Copied { ticket: &ticket, state: &state, event_id, processed_by: "orders-0" };
        let mut connection = self.pool.acquire().await.unwrap();
        tickets::upsert_if_newer(&mut connection, &[copy]).await.unwrap();
    }

    /// Moves the end of an order's reservation to a moment ago.
    pub(crate) async fn time_passes(&self, order: &str) {
        self.execute(&format!(
            "update orders set expires_at = clock_timestamp() - interval '1 ms' where id = '{order}'"
        ))
        .await;
    }

    /// Makes every later commit that touches an order fail.
    pub(crate) async fn commits_of_orders_fail(&self) {
        self.execute(
            "create function refuse() returns trigger language plpgsql
             as $$ begin raise 'refused'; end $$",
        )
        .await;
        self.execute(
            "create constraint trigger refused after insert or update on orders
             deferrable initially deferred for each row execute function refuse()",
        )
        .await;
    }

    /// Expires orders, as each replica does, until a query returns true.
    pub(crate) async fn expires_until(&self, condition: &str) {
        let (shutdown, _) = Shutdown::new();
        let expiry = expiry::run(self.pool.clone().into(), Wake::default(), shutdown.clone());
        self.runs_until(expiry, shutdown, self.until(condition)).await;
    }

    /// Captures payments, as each replica does, until a query returns true.
    pub(crate) async fn captures_until(&self, condition: &str) {
        let (shutdown, _) = Shutdown::new();
        let captures =
            capture::run(self.pool.clone().into(), self.provider.clone(), shutdown.clone());
        self.runs_until(captures, shutdown, self.until(condition)).await;
    }

    async fn runs_until(
        &self,
        task: impl Future<Output = anyhow::Result<()>>,
        shutdown: Shutdown,
        condition: impl Future<Output = ()>,
    ) {
        let (ended, ()) = tokio::join!(task, async {
            condition.await;
            shutdown.begin();
        });
        ended.unwrap();
    }

    /// Waits until this many payments are authorized.
    pub(crate) async fn authorizes(&self, payments: usize) {
        until("the payments are authorized", async || self.provider.authorized().len() >= payments)
            .await;
    }

    /// An order's events, in commit order.
    pub(crate) async fn events(&self, order: &str) -> Vec<Value> {
        let events: Value = self
            .one(&format!(
                "select coalesce(jsonb_agg(envelope::jsonb order by position), '[]') from bus.log
                 where envelope::jsonb ->> 'subject' = '{order}'"
            ))
            .await;
        events.as_array().unwrap().clone()
    }

    /// Checks that an order has this state and version, and that each version has an event.
    pub(crate) async fn is_now(
        &self,
        buyer: &Buyer<'_>,
        order: &str,
        status: &str,
        version: usize,
    ) {
        let read = buyer.read(order).await;
        let is = read.json();
        let became = (is["status"].as_str().unwrap(), is["version"].as_u64().unwrap());
        assert_eq!(became, (status, version as u64), "{}", read.body);
        let events = self.events(order).await;
        let told: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
        let last = format!("order:{status}");
        let expected =
            if status == "reserved" { vec!["order:created"] } else { vec!["order:created", &last] };
        assert_eq!(told, expected);
        // Tests that move the deadline change only the row, not the events.
        let mut data = events[events.len() - 1]["data"].clone();
        data["expiresAt"] = is["expiresAt"].clone();
        assert_eq!(data, is);
    }

    /// Checks how many orders and events are committed.
    pub(crate) async fn holds(&self, orders: i64, events: i64) {
        self.counts("orders", orders, events).await;
    }
}

/// Auth with these settings; if they turn tokens off, every buyer is `local`.
pub(crate) fn auth(settings: &AuthSettings) -> Result<Auth, String> {
    Auth::new(settings, &"local".parse().unwrap())
}

/// Gives tests direct access to the service's database.
impl Deref for Service {
    type Target = Database;

    fn deref(&self) -> &Database {
        &self.database
    }
}
