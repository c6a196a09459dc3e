//! A separate system for each test: servers, services as processes, and helpers to query them.
//! Everything listens on loopback and dies with the test.

mod load;

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
};

use async_nats::jetstream::{self, consumer::PullConsumer};
use embedded::{
    NatsServer, Postgres, nats, ports, postgres,
    process::{Child, Command},
};
use sqlx::PgPool;
use testkit::client;
pub(crate) use testkit::{PATIENCE, POLL_INTERVAL, until};
use uuid::Uuid;

pub(crate) use load::Load;
use load::post;

use crate::identities::{Identities, imported};

/// Two servers with a database for each service.
pub(crate) struct System {
    pub(crate) nats: NatsServer,
    pub(crate) postgres: Postgres,
    pub(crate) tickets_db: PgPool,
    pub(crate) orders_db: PgPool,
    pub(crate) http: reqwest::Client,
    /// The program started for each service: this release's, unless a test sets another.
    pub(crate) program: PathBuf,
    /// Additional settings of the services.
    pub(crate) settings: Vec<(&'static str, String)>,
    /// The users' keys, if each service has its own account.
    identities: Option<Identities>,
}

/// A service as a process.
pub(crate) struct Service {
    pub(crate) child: Child,
    pub(crate) url: String,
}

impl System {
    pub(crate) async fn start() -> Self {
        Self::start_with(NatsServer::builder(), Postgres::builder(), None).await
    }

    /// A system with this Postgres.
    pub(crate) async fn start_with_postgres(postgres: postgres::Builder) -> Self {
        Self::start_with(NatsServer::builder(), postgres, None).await
    }

    /// A system with this nats-server, whose clients all share one account.
    pub(crate) async fn start_on(nats: nats::Builder) -> Self {
        Self::start_with(nats, Postgres::builder(), None).await
    }

    /// A system with the accounts and users of production, whose services need their provisioners.
    pub(crate) async fn start_in_accounts(identities: Identities) -> Self {
        Self::start_with(identities.server(), Postgres::builder(), Some(identities)).await
    }

    async fn start_with(
        nats: nats::Builder,
        postgres: postgres::Builder,
        identities: Option<Identities>,
    ) -> Self {
        let (nats, postgres) = tokio::join!(nats.start(), postgres.start());
        let (nats, postgres) = (nats.unwrap(), postgres.unwrap());
        let tickets_db = postgres.create_database("tickets").await.unwrap();
        let orders_db = postgres.create_database("orders").await.unwrap();
        let (tickets_db, orders_db) =
            (PgPool::connect_lazy(&tickets_db).unwrap(), PgPool::connect_lazy(&orders_db).unwrap());
        Self {
            nats,
            postgres,
            tickets_db,
            orders_db,
            http: client(),
            program: env!("CARGO_BIN_EXE_ticketing").into(),
            settings: Vec::new(),
            identities,
        }
    }

    /// Starts a service that uses NATS at this port, and waits until it is ready.
    pub(crate) async fn service(&self, kind: &str, name: &str, nats_port: u16) -> Service {
        let service = self.spawn(kind, name, nats_port);
        until(&format!("{name} is ready"), || async {
            assert!(service.child.exited().is_none(), "{name} ended at its start");
            let answer = self.http.get(format!("{}/readyz", service.url)).send().await;
            answer.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
        service
    }

    /// Starts a service that may or may not become ready.
    pub(crate) fn spawn(&self, kind: &str, name: &str, nats_port: u16) -> Service {
        let (command, url) = self.command(kind, name, nats_port);
        Service { child: command.spawn().unwrap(), url }
    }

    /// The command that starts a service, and its future URL.
    pub(crate) fn command(&self, kind: &str, name: &str, nats_port: u16) -> (Command, String) {
        let port = ports::free().unwrap();
        let mut command = Command::new(&self.program);
        if let Some(identities) = &self.identities {
            command = command
                .env("NATS_USER", kind)
                .env("NATS_SEED_FILE", identities.seed_file(kind))
                .env("NATS_IMPORTED", imported(kind));
        }
        command = command
            .args([kind])
            .env("AUTH", "off")
            .env("POD_NAME", name)
            .env("NODE_NAME", "node-a")
            .env("HTTP_ADDRESS", format!("127.0.0.1:{port}"))
            .env("NATS_URL", format!("nats://127.0.0.1:{nats_port}"))
            .env("DATABASE_URL", self.postgres.url(kind))
            .env("LOG", std::env::var("SYSTEM_TEST_LOG").unwrap_or_else(|_| "warn".to_owned()))
            .env("LOG_FORMAT", "json");
        for (name, value) in &self.settings {
            command = command.env(name, value);
        }
        (command, format!("http://127.0.0.1:{port}"))
    }

    /// Restarts nats-server on the same disk with the accounts and users of production.
    pub(crate) async fn move_to_accounts(&mut self, identities: Identities) {
        self.nats.stop().await;
        self.nats = identities.server().start().await.unwrap();
        self.identities = Some(identities);
    }

    /// Starts the provisioner that creates a service's queue group in the other account.
    pub(crate) async fn provisioner(&self, service: &str) -> Service {
        let (user, port) = (format!("{service}-provisioner"), ports::free().unwrap());
        let identities = self.identities.as_ref().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_ticketing"))
            .args([service, "provision"])
            .env("HTTP_ADDRESS", format!("127.0.0.1:{port}"))
            .env("NATS_URL", self.nats.url())
            .env("NATS_SEED_FILE", identities.seed_file(&user))
            .env("NATS_USER", user)
            .env("LOG", std::env::var("SYSTEM_TEST_LOG").unwrap_or_else(|_| "warn".to_owned()))
            .spawn()
            .unwrap();
        Service { child, url: format!("http://127.0.0.1:{port}") }
    }

    /// A connection with full rights in the account of this stream.
    pub(crate) async fn jetstream(&self, stream: &str) -> jetstream::Context {
        jetstream::new(match &self.identities {
            Some(identities) => identities.operator(&self.nats, stream).await,
            None => async_nats::connect(self.nats.url()).await.unwrap(),
        })
    }

    pub(crate) async fn tickets(&self) -> Service {
        self.tickets_through(self.nats.client_port()).await
    }

    pub(crate) async fn tickets_through(&self, nats_port: u16) -> Service {
        self.service("tickets", "tickets-1", nats_port).await
    }

    pub(crate) async fn orders(&self, name: &str) -> Service {
        self.orders_through(name, self.nats.client_port()).await
    }

    pub(crate) async fn orders_through(&self, name: &str, nats_port: u16) -> Service {
        let service = self.service("orders", name, nats_port).await;
        self.count_effects().await;
        service
    }

    /// Makes the database count how often the listener wrote for each event. An upsert alone would
    /// hide an effect that happened twice.
    async fn count_effects(&self) {
        let install = "
            select pg_advisory_xact_lock(1);
            create table if not exists effects (event_id uuid, version int, client_id text);
            create or replace function count_effect() returns trigger language plpgsql as $$
                begin insert into effects values (new.event_id, new.version, new.processed_by);
                return null; end $$;
            create or replace trigger count_effect after insert or update on tickets
                for each row execute function count_effect()";
        sqlx::raw_sql(install).execute(&self.orders_db).await.unwrap();
    }

    /// Posts a ticket and returns its id once it is answered 201.
    pub(crate) async fn post(&self, tickets: &Service, title: &str) -> Uuid {
        let answer =
            post(&self.http, &tickets.url, title).await.expect("the POST was not answered");
        answer.expect("the POST was not answered 201")
    }

    /// Waits until orders has all of these tickets, and checks that each took effect once.
    pub(crate) async fn reached_once(&self, tickets: &HashSet<Uuid>) {
        until(&format!("orders has {} tickets", tickets.len()), || async {
            let known = self.known().await;
            tickets.iter().all(|id| known.contains_key(id))
        })
        .await;
        self.each_effect_happened_once().await;
    }

    /// The tickets that orders knows, with the member that processed each. Empty while the database is
    /// down.
    pub(crate) async fn known(&self) -> BTreeMap<Uuid, String> {
        let rows: Result<Vec<(Uuid, String)>, _> =
            sqlx::query_as("select id, processed_by from tickets").fetch_all(&self.orders_db).await;
        rows.unwrap_or_default().into_iter().collect()
    }

    pub(crate) async fn each_effect_happened_once(&self) {
        let twice: Vec<(Uuid, i64)> = sqlx::query_as(
            "select event_id, count(*) from effects group by event_id having count(*) > 1",
        )
        .fetch_all(&self.orders_db)
        .await
        .unwrap();
        assert_eq!(twice, [], "events that took effect more than once");
    }

    pub(crate) async fn no_dead_letters(&self) {
        let dead: i64 = sqlx::query_scalar("select count(*) from bus.dead_letters")
            .fetch_one(&self.orders_db)
            .await
            .unwrap();
        assert_eq!(dead, 0, "an outage made events dead letters");
    }

    /// The queue group's consumer, as the server sees it.
    pub(crate) async fn group(&self) -> jetstream::consumer::Info {
        self.group_of("TICKETS", "orders-service").await
    }

    async fn group_of(&self, stream: &str, group: &str) -> jetstream::consumer::Info {
        let jetstream = self.jetstream(stream).await;
        let consumer: PullConsumer =
            jetstream.get_consumer_from_stream(group, stream).await.unwrap();
        consumer.cached_info().clone()
    }

    /// Waits until no event is waiting or unacknowledged.
    pub(crate) async fn group_is_quiet(&self) {
        self.quiet("TICKETS", "orders-service").await;
    }

    async fn quiet(&self, stream: &str, group: &str) {
        until(&format!("every event is acknowledged in {group}"), || async {
            let group = self.group_of(stream, group).await;
            group.num_pending == 0 && group.num_ack_pending == 0
        })
        .await;
    }

    /// Waits until every event has taken effect, including the events caused by others.
    pub(crate) async fn everything_is_quiet(&self) {
        // In the order in which events cause each other.
        until("orders has published everything", || async {
            unpublished(&self.orders_db).await == 0
        })
        .await;
        self.quiet("ORDERS", "tickets-service").await;
        until("tickets has published everything", || async { self.unpublished().await == 0 }).await;
        self.group_is_quiet().await;
    }

    /// How many messages the stream holds; 0 while there is no stream.
    pub(crate) async fn stream_messages(&self) -> u64 {
        let stream = self.jetstream("TICKETS").await.get_stream("TICKETS").await;
        stream.map_or(0, |stream| stream.cached_info().state.messages)
    }

    pub(crate) async fn unpublished(&self) -> i64 {
        unpublished(&self.tickets_db).await
    }

    /// A metric of a service, summed over its labels.
    pub(crate) async fn metric(&self, service: &Service, name: &str) -> f64 {
        let answer = self.http.get(format!("{}/metrics", service.url)).send().await.unwrap();
        let text = answer.text().await.unwrap();
        let values = text
            .lines()
            .filter(|line| line.starts_with(name) && line[name.len()..].starts_with(['{', ' ']));
        values.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }
}

async fn unpublished(outbox: &PgPool) -> i64 {
    sqlx::query_scalar("select count(*) from bus.unpublished").fetch_one(outbox).await.unwrap()
}
