//! The same load on growing history, which SQL generates: the cost of an event must not depend on how many
//! came before it. Finally, the largest history with its stream wiped: how soon new events get through, and how
//! fast the old ones are republished.

mod fill;

use std::time::Duration;

use common::events::ticket::Ticket;
use tokio::time::{Instant, sleep};

use crate::{
    client::{BODY, Connection, post_all},
    post::CONNECTIONS,
    system::{PATIENCE, Service, System, cpu_seconds, until, until_within},
};

/// Events of history, for each run.
const SIZES: [i64; 4] = [1_000, 100_000, 1_000_000, 10_000_000];
const LOAD: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(20);
/// The longest time to watch a refill.
const REFILL: Duration = Duration::from_secs(1_800);

/// The results of a run.
struct Measured {
    history: i64,
    posts: f64,
    through: f64,
    /// Microseconds of processor time per event, by process.
    cost: Vec<(&'static str, f64)>,
    /// Percent of one processor while idle, by process.
    idle: Vec<(&'static str, f64)>,
    bytes: f64,
}

pub(crate) async fn run(sizes: &[i64]) {
    let sizes = if sizes.is_empty() { &SIZES[..] } else { sizes };
    println!("\nThe same load for {} s on growing history", LOAD.as_secs());
    let mut all: Vec<Measured> = Vec::new();
    for (at, history) in sizes.iter().enumerate() {
        let system = System::start().await;
        let (tickets, orders) = tokio::join!(
            system.service("tickets", "tickets-1"),
            system.service("orders", "orders-1")
        );
        fill::fill(&system, *history).await;
        let measured = measure(&system, &tickets, &orders, *history).await;
        show(&measured, all.first());
        all.push(measured);
        if at + 1 == sizes.len() {
            refill(system, &tickets).await;
        }
    }
}

async fn measure(system: &System, tickets: &Service, orders: &Service, history: i64) -> Measured {
    let processes = [
        ("nats-server", system.nats.process().unwrap().pid()),
        ("postgres", system.postgres.process().unwrap().pid()),
        ("tickets", tickets.child.pid()),
        ("orders", orders.child.pid()),
    ];
    let used = || processes.map(|(name, pid)| (name, cpu_seconds(name, pid)));
    let begun = Instant::now();
    let (rows, size) = (copies(system).await, size(system).await);
    let before = used();
    let posted =
        post_all(&tickets.address, "/api/tickets", || BODY.to_owned(), CONNECTIONS, LOAD).await;
    until(async || waiting(system).await == 0).await;
    let elapsed = begun.elapsed().as_secs_f64();
    let events = count(copies(system).await - rows);
    let cost = difference(before, used()).map(|(name, used)| (name, used * 1e6 / events)).collect();
    let bytes = count(self::size(system).await - size) / events;
    for pool in [&system.tickets_db, &system.orders_db] {
        // Writing the load's dirty pages is not part of idling.
        sqlx::raw_sql("checkpoint").execute(pool).await.unwrap();
    }
    // Measures while nothing happens.
    let before = used();
    sleep(IDLE).await;
    let idle = difference(before, used())
        .map(|(name, used)| (name, used / IDLE.as_secs_f64() * 100.0))
        .collect();
    let through = events / elapsed;
    Measured { history, posts: posted.per_second, through, cost, idle, bytes }
}

fn difference<const N: usize>(
    before: [(&'static str, f64); N],
    after: [(&'static str, f64); N],
) -> impl Iterator<Item = (&'static str, f64)> {
    before.into_iter().zip(after).map(|((name, before), (_, after))| (name, after - before))
}

/// Tickets that orders knows.
async fn copies(system: &System) -> i64 {
    // A table this large is too slow to count often; the insert statistics are fast.
    sqlx::query_scalar(
        "select n_tup_ins from pg_stat_user_tables where schemaname = 'public' and relname = 'tickets'",
    )
    .fetch_one(&system.orders_db)
    .await
    .unwrap()
}

/// Events that have not arrived yet.
async fn waiting(system: &System) -> i64 {
    let client = async_nats::connect(system.nats.url()).await.unwrap();
    let jetstream = async_nats::jetstream::new(client);
    let group: async_nats::jetstream::consumer::PullConsumer =
        jetstream.get_consumer_from_stream("orders-service", "TICKETS").await.unwrap();
    let info = group.get_info().await.unwrap();
    let unread = info.num_pending + info.num_ack_pending as u64;
    unpublished(system).await + i64::try_from(unread).unwrap()
}

pub(crate) async fn unpublished(system: &System) -> i64 {
    let mut connection = system.tickets_db.acquire().await.unwrap();
    common::bus::outbox::depth(&mut connection, "TICKETS").await.unwrap().unpublished
}

/// Bytes of the bus's tables in both databases.
async fn size(system: &System) -> i64 {
    let mut bytes = 0;
    for pool in [&system.tickets_db, &system.orders_db] {
        let one: i64 = sqlx::query_scalar(
            "select sum(pg_total_relation_size(c.oid))::bigint
             from pg_class c join pg_namespace n on n.oid = relnamespace
             where nspname = 'bus' and relkind = 'r'",
        )
        .fetch_one(pool)
        .await
        .unwrap();
        bytes += one;
    }
    bytes
}

#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn count(events: i64) -> f64 {
    events as f64
}

fn show(measured: &Measured, first: Option<&Measured>) {
    let ratio = |now: f64, first: Option<f64>| {
        first.map_or_else(String::new, |first| format!(" ({:.2}×)", now / first))
    };
    let sum = |parts: &[(&str, f64)]| parts.iter().map(|(_, part)| part).sum::<f64>();
    let each = |parts: &[(&str, f64)], digits: usize| {
        let parts: Vec<_> =
            parts.iter().map(|(name, part)| format!("{name} {part:.digits$}")).collect();
        parts.join(", ")
    };
    println!(
        "  {:>8}: {:.0} POST/s{}, {:.0}/s through to the rows{}",
        measured.history,
        measured.posts,
        ratio(measured.posts, first.map(|first| first.posts)),
        measured.through,
        ratio(measured.through, first.map(|first| first.through)),
    );
    println!(
        "            {:.0} µs of processor time an event{}: {}",
        sum(&measured.cost),
        ratio(sum(&measured.cost), first.map(|first| sum(&first.cost))),
        each(&measured.cost, 0)
    );
    println!(
        "            idle {:.2} % of a processor{}: {}",
        sum(&measured.idle),
        ratio(sum(&measured.idle), first.map(|first| sum(&first.idle))),
        each(&measured.idle, 2)
    );
    println!(
        "            {:.0} bytes an event in log and inbox{}",
        measured.bytes,
        ratio(measured.bytes, first.map(|first| first.bytes))
    );
}

/// Wipes the stream and measures the refill.
async fn refill(mut system: System, tickets: &Service) {
    system.nats.wipe_and_restart().await.unwrap();
    let back = Instant::now();
    let mut slowest = Duration::ZERO;
    let mut connection = Connection::open(&tickets.address).await.unwrap();
    let mut again = None;
    until_within(REFILL, async || {
        let posted = Instant::now();
        let (status, body) = connection.send(hyper::Method::POST, "/api/tickets", BODY).await;
        assert_eq!(status, 201);
        let ticket: Ticket = serde_json::from_slice(&body).unwrap();
        until_within(PATIENCE, async || {
            let arrived = sqlx::query_scalar("select exists (select from tickets where id = $1)");
            arrived.bind(ticket.id).fetch_one(&system.orders_db).await.unwrap()
        })
        .await;
        if again.is_none() {
            println!("  a new event is through {:.1} s after NATS is back, its stream wiped", back.elapsed().as_secs_f64());
        } else {
            slowest = slowest.max(posted.elapsed());
        }
        let lost: i64 = sqlx::query_scalar("select coalesce(sum(events), 0)::bigint from bus.ranges where lost")
            .fetch_one(&system.tickets_db)
            .await
            .unwrap();
        let (begun, first) = *again.get_or_insert((Instant::now(), lost));
        if lost == 0 {
            println!(
                "  {first} events published again in {:.0} s: {:.0}/s; a new one took {:.1} s at most meanwhile",
                begun.elapsed().as_secs_f64(),
                count(first) / begun.elapsed().as_secs_f64(),
                slowest.as_secs_f64()
            );
        }
        lost == 0
    })
    .await;
}
