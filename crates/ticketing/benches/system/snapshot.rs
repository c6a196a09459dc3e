//! The same load while a snapshot is held, as by a report or a backup: dead rows cannot be vacuumed
//! meanwhile.

use std::time::Duration;

use sqlx::{Connection, PgConnection};
use tokio::time::Instant;

use crate::{
    client::{BODY, millis, post_all},
    history::unpublished,
    post::{CONNECTIONS, show, stored},
    system::{System, until},
};

const BASELINE: Duration = Duration::from_secs(30);
const HELD: Duration = Duration::from_secs(120);

pub(crate) async fn run() {
    println!("\nPOST /api/tickets with a snapshot held for {} s", HELD.as_secs());
    let system = System::start().await;
    let tickets = system.service("tickets", "tickets-1").await;
    let post = async |time| {
        let (begun, before) = (Instant::now(), stored(&system).await);
        let posted =
            post_all(&tickets.address, "/api/tickets", || BODY.to_owned(), CONNECTIONS, time).await;
        let (elapsed, stored) = (begun.elapsed(), stored(&system).await - before);
        let ended = Instant::now();
        until(async || unpublished(&system).await == 0).await;
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let relayed = stored as f64 / elapsed.as_secs_f64();
        println!(
            "    {relayed:.0}/s in NATS meanwhile, the rest {:.2} s later",
            ended.elapsed().as_secs_f64()
        );
        (posted, relayed)
    };
    let (baseline, relayed) = post(BASELINE).await;
    show("without", &baseline);
    let mut reader = PgConnection::connect(&system.postgres.url("tickets")).await.unwrap();
    sqlx::raw_sql("begin isolation level repeatable read; select count(*) from bus.log")
        .execute(&mut reader)
        .await
        .unwrap();
    let (held, relayed_held) = post(HELD).await;
    show("held", &held);
    println!(
        "  ratio   {:.2}× POST/s, {:.2}× in NATS, {:.2}× the p99",
        held.per_second / baseline.per_second,
        relayed_held / relayed,
        millis(&held.latency, 0.99) / millis(&baseline.latency, 0.99)
    );
    reader.close().await.unwrap();
}
