//! Reliable messaging between services over NATS JetStream and Postgres.
//!
//! What it promises: **an event that was committed with its cause takes effect exactly once in every queue group
//! that listens for it**, whatever process, server or connection fails in between.
//!
//! How it keeps that promise:
//!
//! - Out: [`outbox::put`] stores the event in the transaction of its cause, so that an event exists exactly when its
//!   cause does. The [`Relay`] publishes it after the commit, and republishes whatever a stream loses. A broker outage
//!   fails no request.
//! - In: the [`Delivery`] loop pulls events, claims them in the [`inbox`], calls the [`Listener`], and commits, all in
//!   one transaction. It acknowledges after the commit. A crash between any two steps repeats work, and the inbox
//!   recognizes the repetition.
//! - A [`Listener`] gets a connection, not the pool. It cannot commit too early, so "acknowledge after the commit" is a
//!   type, not advice.
//! - An event that cannot take effect becomes a [dead letter](dead_letters) with its reason, and does not block its
//!   neighbours. An outage of the database is never an event's fault, and does not count as an attempt.
//! - Events carry the full state of their entity and its version, so that order does not matter.
//! - [`topology`] creates streams and consumers, and corrects what was edited, while the processes run.
//! - Every wait on a network has a timeout, every queue a limit. [`Options`] has the settings, with bounds and reasons.
//!
//! A minimal program: a service that publishes parcels and listens to them.
//!
//! ```no_run
//! use bus::{
//!     Bus, ClientId, Delivery, Event, Failure, Lease, Listener, Options, Pool, Received, Relay, Shutdown, Stream, outbox,
//! };
//! use serde::{Deserialize, Serialize};
//! use sqlx::{PgConnection, PgPool};
//! use std::time::Duration;
//!
//! const PARCELS: Stream = Stream {
//!     name: "PARCELS",
//!     subjects: &["parcel:sent"],
//!     schema_prefix: "urn:example:event:",
//! };
//!
//! #[derive(Debug, Serialize, Deserialize)]
//! struct ParcelSent {
//!     number: i64,
//! }
//!
//! impl Event for ParcelSent {
//!     const SUBJECT: &'static str = "parcel:sent";
//!     const STREAM: &'static Stream = &PARCELS;
//!     const SCHEMA_VERSION: u32 = 1;
//!     const SOURCE: &'static str = "/parcels";
//!
//!     fn entity_id(&self) -> String {
//!         self.number.to_string()
//!     }
//! }
//!
//! struct Arrivals;
//!
//! impl Listener for Arrivals {
//!     type Events = ParcelSent;
//!     const QUEUE_GROUP: &'static str = "arrivals";
//!
//!     async fn handle(&self, tx: &mut PgConnection, batch: &[&Received<ParcelSent>]) -> Result<(), Failure> {
//!         let numbers: Vec<i64> = batch.iter().map(|received| received.event.number).collect();
//!         sqlx::query("insert into arrivals select * from unnest($1::bigint[])").bind(numbers).execute(tx).await?;
//!         Ok(())
//!     }
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let database = PgPool::connect("postgres://localhost/parcels").await?;
//!     bus::migrate(&database).await?;
//!     let pool = Pool::from(database);
//!     let (shutdown, mut reason) = Shutdown::new();
//!     let bus = Bus::connect(&Options::new(ClientId::of_this_process()), &shutdown).await?;
//!     let lease = Lease::take(&bus, &shutdown, "parcels", &[Arrivals::QUEUE_GROUP]).await?;
//!
//!     let (relay, wake) = Relay::new(bus.clone(), pool.clone(), &[&PARCELS]);
//!     relay.spawn(&shutdown);
//!     Delivery::new(Arrivals, bus.clone(), pool.clone(), shutdown.clone()).spawn(lease.clone());
//!
//!     // With the rows of its cause, in one transaction. If the request fails, so does the event.
//!     pool.transaction(async |tx| outbox::put(tx, &ParcelSent { number: 7 }).await).await?;
//!     wake.wake();
//!
//!     let ended = reason.wait().await;
//!     shutdown.begin();
//!     shutdown.finish(Duration::from_secs(20)).await;
//!     lease.release().await;
//!     bus.close().await;
//!     Ok(ended?)
//! }
//! ```

mod answer;
mod attempts;
mod backoff;
mod batch;
mod claim;
mod client_id;
mod connection;
pub mod dead_letters;
mod decode;
mod delivery;
mod effect;
pub mod envelope;
mod error;
mod event;
mod imports;
mod in_flight;
pub mod inbox;
pub mod lease;
mod listener;
mod log;
mod measured;
mod migrate;
mod new_dead_letter;
mod options;
mod outage;
pub mod outbox;
mod pool;
pub mod provision;
mod pull;
mod reach;
mod relay;
pub mod rfc3339;
mod server_version;
mod session;
mod settle;
mod shown;
mod shutdown;
mod spans;
mod split;
mod store;
mod text;
pub mod timeline;
pub mod topology;
pub mod trace;
mod undeliverable;
mod upkeep;
mod user;
mod watch;

pub use backoff::Backoff;
pub use client_id::{ClientId, ClientIdError};
pub use connection::{Bus, ConnectError, ConnectionState};
pub use delivery::Delivery;
pub use envelope::{Envelope, EnvelopeError};
pub use error::{
    BoxError, BusError, database_is_away, database_is_busy, database_is_gone, is_locked,
};
pub use event::{DecodeError, Event, EventSet, Stream};
pub use lease::{ClientIdInUse, Holder, Lease, LeaseError};
pub use listener::{Failure, HANDLER_TIMEOUT, Listener, Received};
pub use measured::describe_metrics;
pub use migrate::migrate;
pub use options::{Options, OptionsError, servers};
pub use outbox::OutboxEvent;
pub use pool::Pool;
pub use reach::Reach;
pub use relay::{Relay, Wake};
pub use shown::{shown, shown_json, without_passwords};
pub use shutdown::{Reason, Shutdown, TaskFailure, TaskOutcome};
pub use store::Store;
pub use text::to_microseconds;
pub use topology::TopologyError;
pub use trace::{TraceContext, TraceContextError};
pub use user::{Proof, Seed, SeedError, User};
pub use watch::Readiness;
