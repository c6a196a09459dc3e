//! Helpers shared by the tests of several crates. No shipped program depends on it: crates list it
//! only under `[dev-dependencies]`.
//!
//! - [`until`]: waits for a condition, with a timeout.
//! - [`Database`]: a migrated database for each test, copied from a template.
//! - [`FaultProxy`]: a TCP proxy that injects network faults.
//! - [`parcels`]: an event for the bus's own tests; [`connection`]: members and relays in the
//!   test's process.
//! - [`Answer`]: an HTTP response, and checks of it.
//! - [`tokens`], [`issuer`]: valid and invalid tokens, and an issuer that misbehaves on demand.
//! - [`schemathesis`]: checks an API against its own description.
//! - [`program`]: what the programs of all services have in common.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod answer;
mod client;
pub mod connection;
mod database;
mod fault_proxy;
pub mod issuer;
pub mod parcels;
pub mod program;
pub mod schemathesis;
pub mod tokens;
mod wait;

pub use answer::Answer;
pub use client::{client, install_crypto};
pub use database::Database;
pub use fault_proxy::{Direction, FaultProxy};
pub use wait::{PATIENCE, POLL_INTERVAL, until, until_within};
