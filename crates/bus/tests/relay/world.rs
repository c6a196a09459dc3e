//! A nats-server, a Postgres, and relays that can be killed.

use std::collections::BTreeMap;

use async_nats::jetstream::{self, consumer::pull, stream};
use bus::{Bus, Options, Relay, Shutdown, Store, Wake, envelope::Envelope, outbox};
use embedded::{NatsServer, Postgres};
use futures::StreamExt;
use sqlx::{PgConnection, PgPool};
pub(crate) use testkit::{
    parcels::{PARCELS, ParcelSent},
    until,
};
use tokio::runtime::{Builder, Runtime};

pub(crate) struct World {
    pub(crate) nats: NatsServer,
    pub(crate) postgres: Postgres,
    pub(crate) pool: PgPool,
}

impl World {
    pub(crate) async fn start() -> Self {
        let (nats, postgres) =
            tokio::join!(NatsServer::builder().start(), Postgres::builder().fsync(false).start());
        let (nats, postgres) = (nats.unwrap(), postgres.unwrap());
        let database = postgres.create_database("parcels").await.unwrap();
        let pool = PgPool::connect(&database).await.unwrap();
        bus::migrate(&pool).await.unwrap();
        Self { nats, postgres, pool }
    }

    /// A process with a relay.
    pub(crate) fn relay(&self, name: &str) -> Process {
        Process::start(name, self.nats.url(), self.postgres.url("parcels"))
    }

    /// A process with a relay and this store.
    pub(crate) fn relay_with(&self, name: &str, store: Store) -> Process {
        let options = testkit::connection::options(self.nats.url(), name);
        Process::with(Options { store: Some(store), ..options }, self.postgres.url("parcels"))
    }

    /// Commits these parcels' events in one transaction.
    pub(crate) async fn send(&self, numbers: impl IntoIterator<Item = i64>) {
        let mut tx = self.pool.begin().await.unwrap();
        put(&mut tx, numbers).await;
        tx.commit().await.unwrap();
    }

    pub(crate) async fn stream(&self) -> stream::Stream {
        let client = async_nats::connect(self.nats.url()).await.unwrap();
        jetstream::new(client).get_stream(PARCELS.name).await.unwrap()
    }

    /// Counts the copies of each parcel's event in the stream.
    pub(crate) async fn stored(&self) -> BTreeMap<i64, usize> {
        let Ok(client) = async_nats::connect(self.nats.url()).await else { return BTreeMap::new() };
        let Ok(mut stream) = jetstream::new(client).get_stream(PARCELS.name).await else {
            return BTreeMap::new();
        };
        // The relay may delete the stream in between, to recreate it.
        let Ok(info) = stream.info().await else { return BTreeMap::new() };
        let mut missing = info.state.messages;
        let Ok(consumer) = stream.create_consumer(pull::OrderedConfig::default()).await else {
            return BTreeMap::new();
        };
        let mut messages = consumer.messages().await.unwrap();
        let mut stored = BTreeMap::new();
        while missing > 0 {
            let message = messages.next().await.unwrap().unwrap();
            missing -= 1;
            let Ok(envelope) = Envelope::parse(&message.payload) else { continue };
            let parcel: ParcelSent = serde_json::from_str(envelope.data.get()).unwrap();
            *stored.entry(parcel.number()).or_default() += 1;
        }
        stored
    }

    pub(crate) async fn until_stored(&self, numbers: impl IntoIterator<Item = i64>) {
        let numbers: Vec<i64> = numbers.into_iter().collect();
        until(&format!("{} events are stored", numbers.len()), || async {
            let stored = self.stored().await;
            numbers.iter().all(|number| stored.contains_key(number))
        })
        .await;
    }

    /// Waits until everything is published and nothing has to be republished.
    pub(crate) async fn until_quiet(&self) {
        until("nothing waits", || async {
            let mut connection = self.pool.acquire().await.unwrap();
            let depth = outbox::depth(&mut connection, PARCELS.name).await.unwrap();
            let lost: bool =
                sqlx::query_scalar("select exists (select from bus.ranges where lost)")
                    .fetch_one(&mut *connection)
                    .await
                    .unwrap();
            depth.unpublished == 0 && !lost
        })
        .await;
    }
}

pub(crate) async fn put(tx: &mut PgConnection, numbers: impl IntoIterator<Item = i64>) {
    let events: Vec<_> = numbers
        .into_iter()
        .map(|number| outbox::prepare(&ParcelSent::numbered(number)).unwrap())
        .collect();
    outbox::put_prepared(tx, &events).await.unwrap();
}

/// A relay in its own runtime. Dropping it kills it in the middle of its work.
pub(crate) struct Process {
    runtime: Option<Runtime>,
    /// To be called after a commit of this process.
    pub(crate) wake: Wake,
}

impl Process {
    pub(crate) fn start(name: &str, nats_url: String, database_url: String) -> Self {
        Self::with(testkit::connection::options(nats_url, name), database_url)
    }

    fn with(options: Options, database_url: String) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (sender, wake) = std::sync::mpsc::channel();
        runtime.spawn(async move {
            let (shutdown, mut reason) = Shutdown::new();
            let bus = Bus::connect(&options, &shutdown).await.unwrap();
            let pool = PgPool::connect_lazy(&database_url).unwrap();
            let (relay, wake) = Relay::new(bus, pool, &[&PARCELS]);
            relay.spawn(&shutdown);
            sender.send(wake).unwrap();
            let _ = reason.wait().await;
        });
        Self { runtime: Some(runtime), wake: wake.recv().unwrap() }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
