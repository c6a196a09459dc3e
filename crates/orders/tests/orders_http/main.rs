//! The HTTP contract of `orders`, request by request, against a real Postgres.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod auth_settings;
mod buyer;
mod buyers;
mod changing;
mod contract;
mod expiring;
mod issuer;
mod limit;
mod listing;
mod paying;
mod provider;
mod races;
mod releases;
mod repeating;
mod reserving;
mod service;
mod together;

#[test]
fn the_provision_subcommand_provisions_the_service() {
    testkit::program::has_a_provisioner(env!("CARGO_BIN_EXE_orders"), "orders");
}
