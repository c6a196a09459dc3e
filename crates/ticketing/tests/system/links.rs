//! Connections to Postgres that hang silently: they get no answers and no errors.

use std::time::Duration;

use reqwest::StatusCode;
use testkit::{Direction, FaultProxy};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::harness::{Load, POLL_INTERVAL, Service, System, until};

/// How soon a service must work again once new connections get answers.
const SERVES_AGAIN: Duration = Duration::from_secs(10);
/// How soon others must have the events of a replica that lost its database.
const TAKEN_OVER: Duration = Duration::from_secs(15);

/// A link to Postgres, and the settings of a service that goes through it.
async fn link(system: &System, database: &str) -> (FaultProxy, (&'static str, String)) {
    let port = system.postgres.port();
    let link = FaultProxy::to(port).await.unwrap();
    let through =
        system.postgres.url(database).replace(&format!(":{port}/"), &format!(":{}/", link.port()));
    (link, ("DATABASE_URL", through))
}

async fn is_ready(system: &System, service: &Service) -> bool {
    let answer = system.http.get(format!("{}/readyz", service.url)).send().await;
    answer.is_ok_and(|answer| answer.status().is_success())
}

/// Clients that read continuously, more than the pool has connections.
fn readers(system: &System, service: &Service, path: &str) -> JoinSet<()> {
    let mut readers = JoinSet::new();
    for _ in 0..24 {
        let read = system.http.get(format!("{}{path}", service.url));
        readers.spawn(async move {
            loop {
                let answer = read.try_clone().unwrap().send().await;
                if !answer.is_ok_and(|answer| answer.status().is_success()) {
                    sleep(POLL_INTERVAL).await;
                }
            }
        });
    }
    readers
}

/// How long it takes until this path is answered 200.
async fn answers(system: &System, service: &Service, path: &str) -> Duration {
    let begun = Instant::now();
    until(&format!("{path} is answered"), || async {
        let answer = system.http.get(format!("{}{path}", service.url)).send().await;
        answer.is_ok_and(|answer| answer.status() == StatusCode::OK)
    })
    .await;
    begun.elapsed()
}

#[tokio::test]
async fn after_a_silent_failover_postgres_is_used_again_within_10_s_under_load() {
    let mut system = System::start().await;
    let (of_tickets, through) = link(&system, "tickets").await;
    system.settings = vec![through];
    let tickets = system.tickets().await;
    let (of_orders, through) = link(&system, "orders").await;
    system.settings = vec![through];
    let orders = system.orders("orders-1").await;
    let load = Load::begin(&system, &tickets, 16);
    let readers =
        [readers(&system, &tickets, "/api/tickets"), readers(&system, &orders, "/api/orders")];
    load.more(200).await;

    tokio::join!(of_tickets.vanish(), of_orders.vanish());
    let begun = Instant::now();
    let posted = async {
        // Requests that the old connections had finished may still be answered, so this waits for more than
        // there are clients.
        load.more(50).await;
        begun.elapsed()
    };
    let (posted, read, reserved) = tokio::join!(
        posted,
        answers(&system, &tickets, "/api/tickets"),
        answers(&system, &orders, "/api/orders"),
    );
    for took in [posted, read, reserved] {
        assert!(took < SERVES_AGAIN, "served again only after {took:?}");
    }
    until("both say that they are ready", || async {
        is_ready(&system, &tickets).await && is_ready(&system, &orders).await
    })
    .await;
    let took = begun.elapsed();
    assert!(took < SERVES_AGAIN, "ready only after {took:?}");
    drop(readers);
    // The pool has lost no connection: all of them work.
    load.more(200).await;
    system.reached_once(&load.end().await).await;
    system.group_is_quiet().await;
    system.no_dead_letters().await;
}

#[tokio::test]
async fn a_service_whose_database_stops_answering_is_not_ready_until_it_answers_again() {
    let mut system = System::start().await;
    let (database, through) = link(&system, "tickets").await;
    system.settings = vec![through];
    let tickets = system.tickets().await;
    let load = Load::begin(&system, &tickets, 16);
    load.more(100).await;
    database.hold(Direction::ToClient).await;
    let begun = Instant::now();
    until("it says that it is not ready", || async { !is_ready(&system, &tickets).await }).await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(6), "it was ready for another {took:?}");
    database.release(Direction::ToClient).await;
    load.more(100).await;
    until("it says that it is ready", || is_ready(&system, &tickets)).await;
    load.end().await;
}

#[tokio::test]
async fn events_of_a_replica_that_lost_its_database_are_taken_over_within_15_s() {
    let mut system = System::start().await;
    let tickets = system.tickets().await;
    let _second = system.orders("orders-2").await;
    let (database, through) = link(&system, "orders").await;
    system.settings = vec![through];
    let first = system.orders("orders-1").await;
    let load = Load::begin(&system, &tickets, 8);
    until("the first takes part", || async {
        system.metric(&first, "bus_acked_total").await > 50.0
    })
    .await;
    tokio::join!(database.hold(Direction::ToServer), database.hold(Direction::ToClient));
    let begun = Instant::now();
    // Enough that the replica has received some that it cannot store.
    load.more(500).await;
    let created = load.end().await;
    until("every ticket has arrived", || async {
        let known = system.known().await;
        created.iter().all(|id| known.contains_key(id))
    })
    .await;
    let took = begun.elapsed();
    assert!(took < TAKEN_OVER, "they arrived only after {took:?}");
    system.each_effect_happened_once().await;
    system.no_dead_letters().await;
    let counted: i64 = sqlx::query_scalar("select count(*) from bus.attempts where attempts > 0")
        .fetch_one(&system.orders_db)
        .await
        .unwrap();
    assert_eq!(counted, 0, "nothing was counted against an event");
}

/// Posts with a key until the key is no longer in use. Returns how long that took.
async fn until_free(system: &System, tickets: &Service, key: &str) -> (Duration, StatusCode) {
    let begun = Instant::now();
    loop {
        let answer = posting(system, tickets, key).send().await.unwrap().status();
        if answer != StatusCode::CONFLICT {
            return (begun.elapsed(), answer);
        }
        sleep(POLL_INTERVAL).await;
    }
}

fn posting(system: &System, tickets: &Service, key: &str) -> reqwest::RequestBuilder {
    let body = serde_json::json!({ "title": "Concert", "price": 20 });
    let url = format!("{}/api/tickets", tickets.url);
    system.http.post(url).header("idempotency-key", key).json(&body)
}

/// How the holder of a key is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lost {
    Killed,
    KilledWhileItWaits,
    Frozen,
    CutOff,
}

async fn a_key_whose_holder_is(lost: Lost) {
    const FREE_WITHIN: Duration = Duration::from_secs(2);
    let mut system = System::start().await;
    let other = system.tickets().await;
    let (database, through) = link(&system, "tickets").await;
    system.settings = vec![through];
    let mut holder = system.spawn("tickets", "tickets-2", system.nats.client_port());
    until("the holder is ready", || is_ready(&system, &holder)).await;

    // It gets as far as inserting its ticket, and holds the key.
    let mut locked = system.tickets_db.begin().await.unwrap();
    sqlx::query("lock table tickets in access exclusive mode").execute(&mut *locked).await.unwrap();
    let first = tokio::spawn(posting(&system, &holder, "k").send());
    let of_holder = "select pid from pg_locks where locktype = 'advisory' and granted
                     and pid in (select pid from pg_locks where not granted)";
    let waits = async || {
        let waits = sqlx::query_scalar::<_, i32>(of_holder).fetch_optional(&system.tickets_db);
        waits.await.unwrap()
    };
    until("it waits for the lock", || async { waits().await.is_some() }).await;
    assert_eq!(posting(&system, &other, "k").send().await.unwrap().status(), StatusCode::CONFLICT);
    match lost {
        Lost::Killed | Lost::KilledWhileItWaits => {
            holder.child.kill().await;
        }
        Lost::Frozen => holder.child.pause(),
        Lost::CutOff => database.vanish().await,
    }
    let mut locked = Some(locked);
    if lost == Lost::KilledWhileItWaits {
        // The key is free although the table is locked: the next request waits for the table, not the key.
        let begun = Instant::now();
        until("the key is free", || async { waits().await.is_none() }).await;
        assert!(begun.elapsed() < FREE_WITHIN, "the key was free after {:?}", begun.elapsed());
    }
    // Let its statement end: it must not commit.
    locked.take().unwrap().rollback().await.unwrap();
    let (took, answer) = until_free(&system, &other, "k").await;
    assert_eq!(answer, StatusCode::CREATED, "{lost:?}");
    assert!(took < FREE_WITHIN, "{lost:?}: the key was free only after {took:?}");
    if lost == Lost::Frozen {
        holder.child.resume();
        let answer = first.await.unwrap().unwrap().status();
        assert_eq!(
            answer,
            StatusCode::SERVICE_UNAVAILABLE,
            "the holder that lost its key committed"
        );
    }
    let tickets: i64 = sqlx::query_scalar("select count(*) from tickets")
        .fetch_one(&system.tickets_db)
        .await
        .unwrap();
    assert_eq!(tickets, 1);
}

#[tokio::test]
async fn a_key_whose_holder_was_killed_is_free_within_2_s() {
    a_key_whose_holder_is(Lost::Killed).await;
}

#[tokio::test]
async fn a_key_whose_holder_was_killed_while_it_waited_is_free_within_2_s() {
    a_key_whose_holder_is(Lost::KilledWhileItWaits).await;
}

#[tokio::test]
async fn a_key_whose_holder_froze_is_free_within_2_s_and_the_holder_commits_nothing() {
    a_key_whose_holder_is(Lost::Frozen).await;
}

#[tokio::test]
async fn a_key_whose_holder_was_cut_off_is_free_within_2_s() {
    a_key_whose_holder_is(Lost::CutOff).await;
}
