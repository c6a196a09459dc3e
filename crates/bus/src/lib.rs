//! Reliable messaging between services over NATS JetStream and Postgres.
//!
//! The promise: **an event that was committed with its cause takes effect exactly once in every queue group
//! that listens for it**, whatever process, server or connection fails in between.
//!
//! How it keeps that promise:
//!
//! - Out: [`outbox::put`] stores the event in the transaction of its cause, so that both are committed
//!   or neither is. The [`Relay`] publishes it after the commit, and republishes whatever a stream loses. A broker
//!   outage fails no request.
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
//! A minimal program, `examples/parcels.rs`, which a test runs:
//!
//! ```no_run
#![doc = include_str!("../examples/parcels.rs")]
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
mod redrive;
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
    BoxError, BusError, database_error, database_is_away, database_is_busy, database_is_gone,
    panic_message,
};
pub use event::{DecodeError, Event, EventSet, Stream};
pub use lease::{ClientIdInUse, Holder, Lease, LeaseError};
pub use listener::{Failure, HANDLER_TIMEOUT, Listener, Received};
pub use measured::describe_metrics;
pub use migrate::migrate;
pub use options::{Options, OptionsError, servers};
pub use outbox::OutboxEvent;
pub use pool::{Pool, set_nodelay};
pub use reach::Reach;
pub use relay::{Relay, Wake};
pub use shown::{shown, shown_json, without_passwords};
pub use shutdown::{Shutdown, StopReason, TaskFailure, TaskOutcome};
pub use store::Store;
pub use text::to_microseconds;
pub use topology::TopologyError;
pub use trace::{TraceContext, TraceContextError};
pub use user::{Credentials, Seed, SeedError, User};
pub use watch::Readiness;
