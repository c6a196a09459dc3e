//! The limit on one buyer's reservations holds across replicas.

use axum::http::StatusCode;
use common::events::order::Order;
use futures::future::join_all;
use orders::{
    order,
    store::{self, reservations},
};
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use crate::service::{Answer, Buyer, RESERVATION, Service};

const MOST: u16 = 10;

/// Checks that the answer names the limit and when the buyer may order again.
fn is_too_many(answer: &Answer, most: u16) {
    answer.is_problem(StatusCode::CONFLICT);
    let detail = answer.detail();
    let begins = format!(
        "One buyer may have {most} tickets reserved at a time, and you have reached that limit."
    );
    assert!(detail.starts_with(&begins), "{detail}");
    let until = detail.trim_end_matches('.').rsplit(' ').next().unwrap();
    let until = OffsetDateTime::parse(until, &Rfc3339).unwrap();
    let seconds: i64 = answer.header("retry-after").parse().unwrap();
    let left = (until - OffsetDateTime::now_utc()).whole_seconds();
    assert!((left..=left + 10).contains(&seconds), "{seconds} s; {left} s are left");
}

async fn reserves(buyer: &Buyer<'_>, service: &Service) -> Answer {
    buyer.reserve(service.ticket("20.50").await).await
}

#[tokio::test]
async fn of_fifty_concurrent_reservations_by_one_buyer_on_three_replicas_ten_succeed() {
    let orders = Service::with_limit(MOST).await;
    let anna = orders.buyer("anna");
    let replicas = [orders.base.clone(), orders.replica().await, orders.replica().await];
    let replicas: Vec<_> = replicas.iter().map(|base| anna.at(base)).collect();
    let mut tickets = Vec::new();
    for _ in 0..50 {
        tickets.push(orders.ticket("20.50").await);
    }
    let asked = tickets.iter().enumerate();
    let answers = join_all(asked.map(|(n, ticket)| replicas[n % 3].reserve(*ticket))).await;
    let mut made = 0;
    for answer in &answers {
        match answer.status {
            StatusCode::CREATED => made += 1,
            _ => is_too_many(answer, MOST),
        }
    }
    assert_eq!(made, MOST);
    orders.holds(MOST.into(), MOST.into()).await;
    // Other buyers are unaffected.
    for name in ["bob", "Anna", "anna "] {
        assert_eq!(reserves(&orders.buyer(name), &orders).await.status, StatusCode::CREATED);
    }
}

#[tokio::test]
async fn the_end_of_a_reservation_makes_room_for_another() {
    let orders = Service::with_limit(2).await;
    let anna = orders.buyer("anna");
    let mut ids = vec![anna.order().await, anna.order().await];
    for round in 0..4 {
        is_too_many(&reserves(&anna, &orders).await, 2);
        let ended = ids.remove(0);
        match round {
            0 => assert_eq!(anna.cancel(&ended).await.status, StatusCode::OK),
            1 => assert_eq!(anna.pay(&ended, "tok_visa").await.status, StatusCode::OK),
            // When its time has passed, whether or not it is marked as expired.
            2 => orders.time_passes(&ended).await,
            _ => {
                orders.time_passes(&ended).await;
                orders
                    .expires_until("select count(*) = 2 from orders where status = 'expired'")
                    .await;
            }
        }
        ids.push(anna.order().await);
    }
    is_too_many(&reserves(&anna, &orders).await, 2);
}

#[tokio::test]
async fn a_buyer_at_the_limit_still_gets_the_specific_refusal() {
    let orders = Service::with_limit(1).await;
    let (anna, bob) = (orders.buyer("anna"), orders.buyer("bob"));
    let (hers, his) = (orders.ticket("1").await, orders.ticket("1").await);
    let first = anna.reserve_with_key("k", hers).await;
    bob.reserve(his).await;
    let again = anna.reserve_with_key("k", hers).await;
    assert_eq!((again.status, &again.body), (StatusCode::CREATED, &first.body));
    let own = anna.reserve(hers).await;
    assert!(own.detail().starts_with("You have already reserved this ticket"), "{}", own.body);
    let others = anna.reserve(his).await;
    assert!(others.detail().starts_with("The ticket is reserved until"), "{}", others.body);
    assert_eq!(others.header("retry-after"), "");
    anna.reserve(Uuid::now_v7()).await.is_problem(StatusCode::NOT_FOUND);

    // A refused request does not use up its key.
    let wanted = orders.ticket("1").await;
    is_too_many(&anna.reserve_with_key("later", wanted).await, 1);
    anna.cancel(&first.id()).await;
    assert_eq!(anna.reserve_with_key("later", wanted).await.status, StatusCode::CREATED);
}

/// Counts what statements read of orders: rows by sequential scans, entries of indexes.
async fn read(connection: &mut PgConnection) -> i64 {
    sqlx::raw_sql("select pg_stat_force_next_flush()").execute(&mut *connection).await.unwrap();
    sqlx::raw_sql("select 1").execute(&mut *connection).await.unwrap();
    sqlx::query_scalar(
        "select (select seq_tup_read from pg_stat_user_tables where relname = 'orders')
              + (select sum(idx_tup_read)::bigint from pg_stat_user_indexes where relname = 'orders')",
    )
    .fetch_one(connection)
    .await
    .unwrap()
}

#[tokio::test]
async fn counting_a_buyers_reservations_reads_only_open_ones() {
    let orders = Service::with_limit(MOST).await;
    // A buyer with a long history and many open reservations, made before there was a limit; and
    // other buyers.
    orders
        .execute(
            "create function id(kind int, n int) returns uuid return
                 format('00000000-0000-7000-800%s-%s', kind, lpad(to_hex(n), 12, '0'))::uuid",
        )
        .await;
    orders
        .execute(
            "insert into tickets (id, title, price, version, created_at, updated_at, event_id, processed_by)
             select id(0, n), 'Concert', 20, 1, now(), now(), id(2, n), 'nobody'
             from generate_series(1, 60000) as n",
        )
        .await;
    orders
        .execute(
            "insert into orders (id, ticket_id, buyer, price, status, version, expires_at, created_at, updated_at)
             select id(1, n), id(0, n), case n % 2 when 0 then 'anna' else 'buyer ' || n end, 20,
                    case when n <= 2000 then 'reserved' else 'cancelled' end, 1,
                    now() + interval '1 h', now(), now()
             from generate_series(1, 60000) as n",
        )
        .await;
    orders.execute("analyze").await;
    for mode in ["force_generic_plan", "force_custom_plan"] {
        let options = PgConnectOptions::clone(&orders.pool.connect_options());
        let options = options.options([("plan_cache_mode", mode)]);
        let mut connection = PgConnection::connect_with(&options).await.unwrap();
        let (now, price) = (OffsetDateTime::now_utc(), "20.50".parse().unwrap());
        let mut cost = async |what: &str, buyer: &str, stored: bool| {
            let ticket = orders.ticket("20.50").await;
            let order: Order = order::reserve(ticket, buyer, price, now, RESERVATION);
            let before = read(&mut connection).await;
            let claimed = reservations::claim(&mut connection, &[ticket], &[Some(buyer)]).await;
            assert_eq!(claimed.unwrap().len(), 1);
            reservations::price(&mut connection, ticket, Some(buyer)).await.unwrap();
            store::orders::next_due(&mut connection).await.unwrap();
            let most = Some(MOST.into());
            let inserted = reservations::insert(&mut connection, &[&order], most).await.unwrap();
            assert_eq!(!inserted.is_empty(), stored, "{what}");
            let full = reservations::full_until(&mut connection, buyer, MOST.into(), now).await;
            assert_eq!(full.unwrap().is_some(), !stored, "{what}");
            let entries = read(&mut connection).await - before;
            println!("{mode}, {what}: {entries} entries");
            // Twice the limit, plus what the planner reads to find the end of an index.
            assert!(entries <= 100, "{mode}, {what}: {entries} entries were read");
        };
        cost("a buyer with a long history", "anna", false).await;
        cost("a new buyer", "zoe", true).await;
        connection.close().await.unwrap();
        orders.execute("delete from orders where buyer = 'zoe'").await;
    }
}
