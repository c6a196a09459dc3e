//! The HTTP contract of `tickets`, request by request, against a real Postgres.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod changing;
mod contract;
mod creating;
mod described;
mod overloaded;
mod reading;
mod repeating;
mod sellers;
mod service;

#[test]
fn the_provision_subcommand_provisions_the_service() {
    testkit::program::has_a_provisioner(env!("CARGO_BIN_EXE_tickets"), "tickets");
}
