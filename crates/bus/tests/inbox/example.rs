//! The example in the crate's documentation runs as shown there, in a process of its own.

#[path = "../../examples/parcels.rs"]
mod parcels;

use std::env;

use embedded::{
    NatsServer, Postgres,
    process::{Command, Signal},
};
use sqlx::PgPool;

use crate::world::until;

/// Set for the process that runs the program.
const RUNS: &str = "A_PARCEL_SERVICE";

#[tokio::test]
async fn the_example_in_the_crate_docs_applies_its_event_once_and_exits_0() {
    let (nats, postgres) = tokio::join!(NatsServer::builder().start(), Postgres::builder().start());
    let (nats, postgres) = (nats.unwrap(), postgres.unwrap());
    let database = postgres.create_database("parcels").await.unwrap();
    let program = Command::new(env::current_exe().unwrap())
        .args(["--exact", "example::child_process_that_runs_the_example", "--nocapture"])
        .env(RUNS, "1")
        .env("NATS_URL", nats.url())
        .env("DATABASE_URL", &database)
        .spawn()
        .unwrap();
    let pool = PgPool::connect(&database).await.unwrap();
    let arrivals = async || {
        let numbers = sqlx::query_scalar("select number from arrivals").fetch_all(&pool).await;
        numbers.unwrap_or_else(|_| Vec::<i64>::new())
    };
    until("the parcel has arrived", async || !arrivals().await.is_empty()).await;
    program.signal(Signal::TERM);
    assert!(program.wait().await.success());
    assert_eq!(arrivals().await, [7]);
}

/// Not a test: what the process runs. Does nothing in an ordinary test run.
#[test]
fn child_process_that_runs_the_example() {
    if env::var_os(RUNS).is_some() {
        parcels::main().unwrap();
    }
}
