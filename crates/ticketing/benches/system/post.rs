//! POSTs a second, beside a bare route that answers 201 and does nothing. Each of ours is a ticket
//! and an event on the disk, and the event goes out to NATS meanwhile.

use std::time::Duration;

use axum::{Router, http::StatusCode, routing::post};
use embedded::{ports, process::Command};
use tokio::net::TcpListener;

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
    let tickets = system.service("tickets", "tickets-1").await;
    let processors = Processors::watch(&system, &[&tickets]);
    let ours =
        post_all(&tickets.address, "/api/tickets", || BODY.to_owned(), CONNECTIONS, TIME).await;
    show("tickets", &ours);
    processors.show();
    show_memory(&[&tickets]);
    println!("  ratio   {:.0} % of the bare route", 100.0 * ours.per_second / limit.per_second);
}

/// The limit: a route that does nothing.
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
