//! The delay from a POST to the committed row in the other service, at a steady rate.

use std::{collections::HashMap, time::Duration};

use hyper::Method;
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool, postgres::PgListener};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use crate::{
    client::{BODY, Connection, histogram, micros, millis},
    system::{PATIENCE, Processors, Service, System, show_memory},
};

pub(crate) const RATE: u32 = 200;
pub(crate) const REQUESTS: usize = 6_000;
const CONNECTIONS: usize = 8;

pub(crate) async fn run() {
    println!(
        "\nDelay from the POST to the row in orders, at {RATE} POSTs a second, three replicas"
    );
    let system = System::start().await;
    let tickets = system.service("tickets", "tickets-1").await;
    let mut orders = Vec::new();
    for number in 1..=3 {
        orders.push(system.service("orders", &format!("orders-{number}")).await);
    }
    let services: Vec<_> = std::iter::once(&tickets).chain(&orders).collect();
    let request = |_| ("/api/tickets", BODY.to_owned());
    let rows = Rows { database: &system.orders_db, change: "insert on tickets" };
    measure(&system, &services, &tickets.address, request, "id", rows).await;
}

/// Rows that the database reports, by id, once they are committed.
pub(crate) struct Rows<'a> {
    pub(crate) database: &'a PgPool,
    /// Which change of which table: the middle part of a `create trigger` statement.
    pub(crate) change: &'static str,
}

/// POSTs at the rate, and waits for the row whose id is in this field of each answer. Prints both delays.
pub(crate) async fn measure(
    system: &System,
    services: &[&Service],
    address: &str,
    request: impl Fn(usize) -> (&'static str, String) + Send + 'static,
    field: &'static str,
    rows: Rows<'_>,
) {
    let tell = AssertSqlSafe(format!(
        "create function tell() returns trigger language plpgsql as $$
             begin perform pg_notify('rows', new.id::text); return null; end $$;
         create trigger tell after {} for each row execute function tell()",
        rows.change
    ));
    sqlx::raw_sql(tell).execute(rows.database).await.unwrap();
    let mut told = PgListener::connect_with(rows.database).await.unwrap();
    told.listen("rows").await.unwrap();

    let processors = Processors::watch(system, services);
    let (sent, mut posted) = mpsc::channel(REQUESTS);
    let load = tokio::spawn(post(address.to_owned(), request, field, sent));
    let mut arrived: HashMap<String, Instant> = HashMap::new();
    while arrived.len() < REQUESTS {
        let row = timeout(PATIENCE, told.recv()).await.unwrap().unwrap();
        arrived.insert(row.payload().to_owned(), Instant::now());
    }
    processors.show();
    load.await.unwrap();
    let (mut delays, mut answers) = (histogram(), histogram());
    while let Some(Posted { id, at, answered }) = posted.recv().await {
        delays.record(micros(arrived[&id] - at)).unwrap();
        answers.record(micros(answered - at)).unwrap();
    }
    println!(
        "  to the 201        p50 {:>6.2} ms   p99 {:>6.2} ms",
        millis(&answers, 0.5),
        millis(&answers, 0.99)
    );
    println!(
        "  to the row        p50 {:>6.2} ms   p99 {:>6.2} ms   max {:>6.2} ms",
        millis(&delays, 0.5),
        millis(&delays, 0.99),
        millis(&delays, 1.0)
    );
    show_memory(services);
}

struct Posted {
    id: String,
    at: Instant,
    answered: Instant,
}

/// POSTs at the rate, on connections in turn, each POST on its own schedule: a slow answer delays
/// no later POST unless its connection is still busy.
async fn post(
    address: String,
    request: impl Fn(usize) -> (&'static str, String),
    field: &'static str,
    sent: mpsc::Sender<Posted>,
) {
    let mut workers = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut connection = Connection::open(&address).await.unwrap();
        let (give, mut take) = mpsc::channel::<(Instant, &'static str, String)>(64);
        let sent = sent.clone();
        tokio::spawn(async move {
            while let Some((at, path, body)) = take.recv().await {
                let (status, body) = connection.send(Method::POST, path, &body).await;
                let answered = Instant::now();
                assert_eq!(status, 201);
                let made: Value = serde_json::from_slice(&body).unwrap();
                let id = made[field].as_str().unwrap().to_owned();
                sent.send(Posted { id, at, answered }).await.unwrap();
            }
        });
        workers.push(give);
    }
    let mut beat = interval(Duration::from_secs(1) / RATE);
    beat.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in 0..REQUESTS {
        let (path, body) = request(number);
        // The timer ticks up to a millisecond late, which must not count as the system's delay.
        beat.tick().await;
        let due = Instant::now();
        workers[number % CONNECTIONS].send((due, path, body)).await.unwrap();
    }
}
