//! What the tests of several crates share. No shipped program depends on it; crates name it under
//! `[dev-dependencies]` alone.
//!
//! - [`until`]: waits for a condition, with a bound.
//! - [`Database`]: a migrated database for each test, copied from a template.
//! - [`FaultProxy`]: a TCP proxy that injects the faults of a network.
//! - [`parcels`]: an event for the bus's own tests; [`connection`]: members and relays in the test's process.
//! - [`Answer`]: an HTTP response, and what it must be.
//! - [`tokens`], [`issuer`]: tokens as an issuer makes them, and as nobody should; an issuer that misbehaves on
//!   demand.
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
