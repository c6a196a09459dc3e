//! POSTs per second, compared with a bare route that answers 201 and does nothing. Each of ours writes a
//! ticket and an event to disk. Meanwhile the events go through NATS into the rows of orders: how many had
//! arrived when the last POST was answered, and how long the others took.

use std::time::Duration;

use async_nats::jetstream;
use axum::{Router, http::StatusCode, routing::post};
use embedded::{ports, process::Command};
use tokio::{net::TcpListener, time::Instant};

use crate::{
    client::{self, BODY, Measured, millis, post_all},
    system::{Processors, System, show_memory, until},
};

/// The argument that makes this program the bare server.
pub(crate) const BARE_SERVER: &str = "bare-server";
pub(crate) const CONNECTIONS: usize = 64;
pub(crate) const TIME: Duration = Duration::from_secs(10);

pub(crate) async fn bare_server(address: &str) {
    let listener = TcpListener::bind(address).await.unwrap();
    let route = Router::new().route("/api/tickets", post(async || StatusCode::CREATED));
    axum::serve(listener, route).await.unwrap();
}

pub(crate) async fn run() {
    println!("\nPOST /api/tickets on {CONNECTIONS} connections for {} s", TIME.as_secs());
    let limit = bare_route().await;
    let system = System::start().await;
    let (tickets, orders) =
        tokio::join!(system.service("tickets", "tickets-1"), system.service("orders", "orders-1"));
    let processors = Processors::watch(&system, &[&tickets, &orders]);
    let begun = Instant::now();
    let ours =
        post_all(&tickets.address, "/api/tickets", || BODY.to_owned(), CONNECTIONS, TIME).await;
    let (stored, rows, time) = (stored(&system).await, rows(&system).await, begun.elapsed());
    let (posted, answered) = (self::posted(&system).await, Instant::now());
    show("tickets", &ours);
    processors.show();
    show_memory(&[&tickets, &orders]);
    until(async || self::rows(&system).await == posted).await;
    let (caught_up, all) = (answered.elapsed(), begun.elapsed());
    println!("  ratio   {:.0} % of the bare route", 100.0 * ours.per_second / limit.per_second);
    #[expect(clippy::cast_precision_loss, reason = "rates")]
    let (posted, stored, rows) = (posted as f64, stored as f64, rows as f64);
    println!(
        "  in the same {:.1} s   {:.0}/s posted, {:.0}/s in NATS, {:.0}/s in the rows of orders; the rest {:.2} s later",
        time.as_secs_f64(),
        posted / time.as_secs_f64(),
        stored / time.as_secs_f64(),
        rows / time.as_secs_f64(),
        caught_up.as_secs_f64()
    );
    println!(
        "  sustained   {:.0}/s from the POST to the rows: {:.0} % of the POSTs",
        posted / all.as_secs_f64(),
        100.0 * time.as_secs_f64() / all.as_secs_f64()
    );
}

/// Events that the stream holds.
pub(crate) async fn stored(system: &System) -> i64 {
    let jetstream = jetstream::new(async_nats::connect(system.nats.url()).await.unwrap());
    let Ok(stream) = jetstream.get_stream("TICKETS").await else { return 0 };
    i64::try_from(stream.cached_info().state.messages).unwrap()
}

async fn rows(system: &System) -> i64 {
    sqlx::query_scalar("select count(*) from tickets").fetch_one(&system.orders_db).await.unwrap()
}

async fn posted(system: &System) -> i64 {
    sqlx::query_scalar("select count(*) from tickets").fetch_one(&system.tickets_db).await.unwrap()
}

/// The upper limit: a route that does nothing.
pub(crate) async fn bare_route() -> Measured {
    let address = format!("127.0.0.1:{}", ports::free().unwrap());
    let bare = Command::new(std::env::current_exe().unwrap()).args([BARE_SERVER, &address]);
    let bare = bare.spawn().unwrap();
    until(async || client::get(&address, "/").await.is_some()).await;
    let limit = post_all(&address, "/api/tickets", || BODY.to_owned(), CONNECTIONS, TIME).await;
    drop(bare);
    show("a bare route", &limit);
    limit
}

pub(crate) fn show(what: &str, measured: &Measured) {
    println!(
        "  {what:<13} {:>7.0}/s   p50 {:>6.2} ms   p99 {:>6.2} ms",
        measured.per_second,
        millis(&measured.latency, 0.5),
        millis(&measured.latency, 0.99)
    );
}
