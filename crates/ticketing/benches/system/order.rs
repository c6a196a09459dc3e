//! Orders per second, compared with a bare route that answers 201 and does nothing, and with transactions
//! that only insert an order, and with transactions that make one whole order each; the delay from the POST
//! until the other service has locked the ticket; and how fast due orders expire.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::bus::outbox;
use embedded::process::Signal;
use futures::future::join_all;
use orders::{order, store::reservations};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    client::post_all,
    delay::{RATE, Rows, measure},
    post::{CONNECTIONS, TIME, bare_route, show},
    system::{PATIENCE, Processors, Service, System, show_memory, until},
};

/// Tickets to order: more than can be ordered in the time.
const TICKETS: usize = 400_000;
/// As many as the service has connections.
const TRANSACTIONS: usize = 16;
/// Orders that come due at once.
const DUE: usize = 10_000;

/// The ticket with this number.
fn ticket(number: usize) -> Uuid {
    Uuid::from_u128(0x7000_8000_0000_0000_0000 + number as u128 + 1)
}

pub(crate) async fn run() {
    reserve().await;
    delay().await;
    expire().await;
}

/// Starts the services, with tickets that both know.
async fn start(tickets: usize) -> (System, Vec<Service>) {
    let system = System::start().await;
    let mut services = vec![system.service("tickets", "tickets-1").await];
    for number in 1..=3 {
        services.push(system.service("orders", &format!("orders-{number}")).await);
    }
    let ids = format!(
        "(select format('00000000-0000-7000-8000-%s', lpad(to_hex(n), 12, '0'))::uuid as id
          from generate_series(1, {tickets}) as n) as ids"
    );
    let of_tickets = "insert into tickets (id, title, price, version, created_at, updated_at)
                      select id, 'Concert', 20, 1, now(), now() from";
    let of_orders = "insert into tickets (id, title, price, version, created_at, updated_at,
                                          event_id, processed_by)
                     select id, 'Concert', 20, 1, now(), now(), id, 'nobody' from";
    execute(&system.tickets_db, format!("{of_tickets} {ids}; analyze tickets")).await;
    execute(&system.orders_db, format!("{of_orders} {ids}; analyze tickets")).await;
    (system, services)
}

async fn execute(database: &PgPool, statements: String) {
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(database).await.unwrap();
}

fn body_of(number: usize) -> String {
    format!(r#"{{"ticketId":"{}"}}"#, ticket(number))
}

async fn reserve() {
    println!("\nPOST /api/orders on {CONNECTIONS} connections for {} s", TIME.as_secs());
    let limit = bare_route().await;
    let (system, services) = start(TICKETS).await;
    let bare = one_row_transactions(&system).await;
    println!("  {TRANSACTIONS} connections, a row a transaction  {bare:>6.0}/s");
    let each = one_order_transactions(&system).await;
    println!("  {TRANSACTIONS} connections, an order a transaction {each:>5.0}/s");
    let services: Vec<_> = services.iter().collect();
    let processors = Processors::watch(&system, &services);
    // The first half is for the transactions above.
    let next = Arc::new(AtomicUsize::new(TICKETS / 2));
    let body = move || body_of(next.fetch_add(1, Ordering::Relaxed));
    // One replica: on one machine, three would only compete for its processors.
    let ours = post_all(&services[1].address, "/api/orders", body, CONNECTIONS, TIME).await;
    show("orders", &ours);
    processors.show();
    show_memory(&services[..2]);
    println!(
        "  ratio   {:.0} % of the bare route, {:.0} % of the rows, {:.0} % of the orders",
        100.0 * ours.per_second / limit.per_second,
        100.0 * ours.per_second / bare,
        100.0 * ours.per_second / each
    );
}

/// How many transactions per second the database commits that only insert an order.
async fn one_row_transactions(system: &System) -> f64 {
    let make = "create table bare (like orders including all)";
    execute(&system.orders_db, make.to_owned()).await;
    transactions(system, async |tx, _| {
        sqlx::query(
            "insert into bare (id, ticket_id, buyer, price, status, version, expires_at,
                               created_at, updated_at)
             values ($1, $1, 'ada', 20, 'reserved', 1, now(), now(), now())",
        )
        .bind(Uuid::now_v7())
        .execute(tx)
        .await
        .unwrap();
    })
    .await
}

/// How many orders per second the database commits without HTTP and without a service, each by the statements of
/// one order, in a transaction of its own.
async fn one_order_transactions(system: &System) -> f64 {
    transactions(system, async |tx, number| {
        let ticket = ticket(number);
        let (price, now) = reservations::price(tx, ticket, None).await.unwrap().unwrap();
        let order = order::reserve(ticket, "ada", price, now, Duration::from_mins(15));
        assert_eq!(reservations::insert(tx, &[&order], None).await.unwrap().len(), 1);
        outbox::put_prepared(tx, [&order::event(order).unwrap()]).await.unwrap();
    })
    .await
}

/// How many of these transactions per second the database commits. Each gets the next number.
#[expect(clippy::cast_precision_loss, reason = "a rate")]
async fn transactions(system: &System, work: impl AsyncFn(&mut PgConnection, usize)) -> f64 {
    let (next, work) = (&AtomicUsize::new(0), &work);
    let begun = Instant::now();
    let clients = (0..TRANSACTIONS).map(|_| async move {
        let mut connection = PgConnection::connect(&system.postgres.url("orders")).await.unwrap();
        while begun.elapsed() < TIME / 2 {
            let mut tx = connection.begin().await.unwrap();
            work(&mut tx, next.fetch_add(1, Ordering::Relaxed)).await;
            tx.commit().await.unwrap();
        }
    });
    join_all(clients).await;
    next.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64()
}

async fn delay() {
    println!(
        "\nDelay from the POST of an order to its ticket's lock in tickets, at {RATE} a second, three replicas"
    );
    let (system, services) = start(crate::delay::REQUESTS).await;
    let services: Vec<_> = services.iter().collect();
    let locked = Rows { database: &system.tickets_db, change: "update on tickets" };
    let request = |number| ("/api/orders", body_of(number));
    measure(&system, &services, &services[1].address, request, "ticketId", locked).await;
}

async fn expire() {
    println!("\n{DUE} due orders, three replicas");
    let (system, services) = start(DUE).await;
    let mut services = services.into_iter();
    let _tickets = services.next();
    for mut replica in services {
        replica.child.stop(Signal::TERM, PATIENCE).await;
    }
    let reserved = "insert into orders (id, ticket_id, buyer, price, status, version, expires_at,
                                        created_at, updated_at)
                    select id, id, 'ada', 20, 'reserved', 1, now(), now(), now() from tickets";
    execute(&system.orders_db, reserved.to_owned()).await;
    let _replicas = tokio::join!(
        system.service("orders", "orders-1"),
        system.service("orders", "orders-2"),
        system.service("orders", "orders-3")
    );
    until(async || {
        let left = "select count(*) from orders where status = 'reserved'";
        sqlx::query_scalar::<_, i64>(left).fetch_one(&system.orders_db).await.unwrap() == 0
    })
    .await;
    let seconds: f64 = sqlx::query_scalar(
        "select extract(epoch from max(updated_at) - min(updated_at))::float8 from orders",
    )
    .fetch_one(&system.orders_db)
    .await
    .unwrap();
    println!("  from the first to the last {seconds:.2} s");
    let told = Instant::now();
    until(async || {
        let waiting = "select count(*) from bus.unpublished";
        sqlx::query_scalar::<_, i64>(waiting).fetch_one(&system.orders_db).await.unwrap() == 0
    })
    .await;
    println!("  and {:.2} s more until all were published", told.elapsed().as_secs_f64());
}
