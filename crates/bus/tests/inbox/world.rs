//! Two servers, a listener whose writes Postgres may refuse, and helpers to query them.

use std::time::Duration;

use async_nats::jetstream::{
    self,
    consumer::{Info, PullConsumer},
    message::PublishMessage,
};
use bus::{
    Delivery, Event, Failure, Listener, Options, Pool, Received, Shutdown, envelope, inbox::Claim,
    lease::Lease,
};
use embedded::{NatsServer, Postgres};
use sqlx::{PgConnection, PgPool, postgres::PgConnectOptions};
pub(crate) use testkit::parcels::{PARCELS, ParcelSent};
use testkit::{
    connection::{connect, options},
    until_within,
};
use time::OffsetDateTime;
use uuid::Uuid;

/// Longer than anything takes unless it is lost: even tens of thousands of events on a busy
/// machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// How many publishes wait for their acks at once.
const PIPELINED: usize = 500;
/// How many connections a member has.
const CONNECTIONS: usize = 10;

pub(crate) const GROUP: &str = "parcel-service";
/// An event with this name.
pub(crate) fn sent(name: &str) -> impl Event {
    ParcelSent(name.to_owned())
}

/// Writes a batch with one statement. Postgres refuses "refused", and cannot compute "".
struct Parcels;

impl Listener for Parcels {
    type Events = ParcelSent;
    const QUEUE_GROUP: &'static str = GROUP;

    async fn handle(
        &self,
        tx: &mut PgConnection,
        batch: &[&Received<ParcelSent>],
    ) -> Result<(), Failure> {
        let ids: Vec<Uuid> = batch.iter().map(|received| received.id).collect();
        let names: Vec<&str> = batch.iter().map(|received| received.event.0.as_str()).collect();
        assert!(!names.contains(&"panic"), "as the name says");
        sqlx::query("insert into effects select * from unnest($1::uuid[], $2::text[])")
            .bind(ids)
            .bind(names)
            .execute(tx)
            .await?;
        Ok(())
    }
}

/// Waits until a condition holds.
pub(crate) async fn until(what: &str, holds: impl AsyncFnMut() -> bool) {
    until_within(PATIENCE, what, holds).await;
}

/// Claims of events, made from ids only.
pub(crate) fn claims(ids: &[Uuid]) -> Vec<Claim> {
    ids.iter().map(|id| Claim::new(*id, id.as_bytes())).collect()
}

pub(crate) struct World {
    pub(crate) nats: NatsServer,
    _postgres: Postgres,
    pub(crate) pool: PgPool,
    pub(crate) jetstream: jetstream::Context,
}

impl World {
    pub(crate) async fn start() -> Self {
        let (nats, postgres) =
            tokio::join!(NatsServer::builder().start(), Postgres::builder().start());
        let (nats, postgres) = (nats.unwrap(), postgres.unwrap());
        let url = postgres.create_database("parcels").await.unwrap();
        let pool = PgPool::connect(&url).await.unwrap();
        bus::migrate(&pool).await.unwrap();
        sqlx::raw_sql(
            "create table effects (
                 event_id uuid not null,
                 name text not null check (name <> 'refused'),
                 one integer generated always as (1 / length(name)) stored,
                 at timestamptz not null default clock_timestamp(),
                 transaction xid8 not null default pg_current_xact_id());
             create table late (name text unique deferrable initially deferred);
             create function late() returns trigger language plpgsql as $$
                 begin insert into late values ('late'); return new; end $$;
             create trigger late before insert on effects for each row
                 when (new.name = 'late') execute function late();
             insert into late values ('late')",
        )
        .execute(&pool)
        .await
        .unwrap();
        let jetstream = jetstream::new(async_nats::connect(nats.url()).await.unwrap());
        let stream = jetstream::stream::Config {
            name: PARCELS.name.to_owned(),
            subjects: PARCELS.subjects.iter().map(ToString::to_string).collect(),
            ..jetstream::stream::Config::default()
        };
        jetstream.create_stream(stream).await.unwrap();
        Self { nats, _postgres: postgres, pool, jetstream }
    }

    /// Starts a member of the group that runs until the test ends. Returns the handle that stops it.
    pub(crate) async fn member(&self, name: &str) -> Shutdown {
        join(Parcels, self.nats.url(), self.pool.clone(), name).await
    }

    /// Starts a member that reaches nats-server at this port. Returns the handle that stops it.
    pub(crate) async fn member_at(&self, port: u16, name: &str) -> Shutdown {
        join(Parcels, format!("nats://127.0.0.1:{port}"), self.pool.clone(), name).await
    }

    /// The group's consumer.
    pub(crate) async fn group(&self) -> Option<Info> {
        let group: Result<PullConsumer, _> =
            self.jetstream.get_consumer_from_stream(GROUP, PARCELS.name).await;
        group.ok().map(|group| group.cached_info().clone())
    }

    /// Publishes events, each with its id and name.
    pub(crate) async fn publish(&self, events: &[(Uuid, &str)]) {
        let encode = |(id, name): &(Uuid, &str)| {
            let event = ParcelSent((*name).to_owned());
            // The same event has the same bytes, however often it is published.
            envelope::encode(*id, OffsetDateTime::UNIX_EPOCH, &event).unwrap().into_bytes()
        };
        self.publish_bytes(events.iter().map(encode).collect()).await;
    }

    /// Publishes arbitrary bytes.
    pub(crate) async fn publish_bytes(&self, messages: Vec<Vec<u8>>) {
        for messages in messages.chunks(PIPELINED) {
            let mut acks = Vec::new();
            for bytes in messages {
                let message = PublishMessage::build().payload(bytes.clone().into());
                acks.push(self.jetstream.send_publish("parcel:sent", message).await.unwrap());
            }
            for ack in acks {
                ack.await.unwrap();
            }
        }
    }

    /// Counts the events that took effect, and the effects.
    pub(crate) async fn effects(&self) -> (i64, i64) {
        sqlx::query_as("select count(distinct event_id), count(*) from effects")
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }

    pub(crate) async fn number(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(&self.pool).await.unwrap()
    }
}

/// Joins the group under this client id, until it is stopped or the process ends.
pub(crate) async fn join<L: Listener>(
    listener: L,
    nats_url: String,
    pool: PgPool,
    client_id: &str,
) -> Shutdown {
    join_with(listener, options(nats_url, client_id), pool).await
}

/// Joins the group with these options.
pub(crate) async fn join_with<L: Listener>(
    listener: L,
    options: Options,
    pool: PgPool,
) -> Shutdown {
    let (bus, shutdown) = connect(&options).await;
    let lease = Lease::take(&bus, &shutdown, "parcels", &[GROUP]).await.unwrap();
    let pool = Pool::new(PgConnectOptions::clone(&pool.connect_options()), CONNECTIONS);
    Delivery::new(listener, bus, pool, shutdown.clone()).spawn(lease);
    shutdown
}
