//! The HTTP contract of `orders`, request by request, against a real Postgres.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

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
mod reserving;
mod service;
use service::tokens;

#[test]
fn the_word_provision_makes_the_program_its_own_provisioner() {
    let run = |arguments: &[&str]| {
        let program = env!("CARGO_BIN_EXE_orders");
        let ran = std::process::Command::new(program).args(arguments).env_clear().output().unwrap();
        (ran.status.code(), String::from_utf8(ran.stdout).unwrap())
    };
    let (status, help) = run(&["provision", "--help"]);
    assert_eq!(status, Some(0));
    assert!(help.contains("NATS_SEED_FILE") && !help.contains("DATABASE_URL"), "{help}");
    // Its settings are checked as the service's are.
    assert_eq!(run(&["provision", "--nats-replicas", "9"]).0, Some(64));
    assert!(run(&["--help"]).1.contains("orders provision"));
}
