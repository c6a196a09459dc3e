//! Reservations that arrive together share a transaction, and each is answered as if it were alone.

use axum::http::StatusCode;
use futures::future::join_all;
use sqlx::Connection;
use uuid::Uuid;

use crate::service::{Answer, Service};

/// Concurrent requests: many more than there are concurrent transactions.
const REQUESTS: usize = 60;

async fn tickets(orders: &Service, number: usize) -> Vec<Uuid> {
    let mut ids = Vec::with_capacity(number);
    for _ in 0..number {
        ids.push(orders.ticket("20.50").await);
    }
    ids
}

#[tokio::test]
async fn reservations_that_arrive_together_share_transactions() {
    let orders = Service::start().await;
    let (anna, tickets) = (orders.buyer("anna"), tickets(&orders, REQUESTS).await);
    let answers = join_all(tickets.iter().enumerate().map(async |(n, ticket)| {
        // With and without a key.
        match n % 2 {
            0 => anna.reserve(*ticket).await,
            _ => anna.reserve_with_key(&format!("key-{n}"), *ticket).await,
        }
    }))
    .await;
    for (answer, ticket) in answers.iter().zip(&tickets) {
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
        assert_eq!(answer.json()["ticketId"], ticket.to_string());
        orders.is_now(&anna, &answer.id(), "reserved", 1).await;
    }
    let transactions: i64 = orders.one("select count(distinct xmin::text) from orders").await;
    assert!(transactions < 40, "{transactions} transactions for {REQUESTS} orders");
    // Requests with a known key get the first answer.
    for (n, (answer, ticket)) in answers.iter().zip(&tickets).enumerate().skip(1).step_by(2) {
        let again = anna.reserve_with_key(&format!("key-{n}"), *ticket).await;
        assert_eq!((again.status, &again.body), (StatusCode::CREATED, &answer.body));
    }
    let requests = i64::try_from(REQUESTS).unwrap();
    orders.holds(requests, requests).await;
}

#[tokio::test]
async fn a_refused_reservation_does_not_affect_others_in_its_transaction() {
    let orders = Service::with_limit(2).await;
    let (anna, bob) = (orders.buyer("anna"), orders.buyer("bob"));
    let tickets = tickets(&orders, REQUESTS / 4).await;
    let (full, unknown) = (orders.buyer("full"), Uuid::now_v7());
    full.order().await;
    full.order().await;
    // Each ticket is also wanted by a buyer at the limit. Bob repeats one request, and Anna wants an unknown ticket.
    let answers = join_all(tickets.iter().enumerate().map(async |(n, ticket)| {
        let one = orders.buyer(&format!("buyer {n}"));
        let answers = tokio::join!(
            one.reserve(*ticket),
            bob.reserve_with_key("k", tickets[0]),
            full.reserve(*ticket),
            anna.reserve(unknown)
        );
        (one, answers)
    }))
    .await;
    let mut taken = 0;
    for (_, (one, _, full, unknown)) in &answers {
        match one.status {
            StatusCode::CREATED => {}
            _ => {
                one.is_problem(StatusCode::CONFLICT);
                taken += 1;
            }
        }
        full.is_problem(StatusCode::CONFLICT);
        unknown.is_problem(StatusCode::NOT_FOUND);
    }
    // The first ticket went either to Bob or to the first buyer.
    let bobs = answers.iter().filter(|(_, (_, bob, _, _))| bob.status == StatusCode::CREATED);
    assert_eq!(taken, usize::from(bobs.count() > 0));
    // The buyer at the limit has two.
    let made = i64::try_from(tickets.len()).unwrap() + 2;
    orders.holds(made, made).await;
}

#[tokio::test]
async fn an_order_waiting_for_a_lock_delays_no_other() {
    let orders = Service::start().await;
    let (anna, tickets) = (orders.buyer("anna"), tickets(&orders, REQUESTS).await);
    // A replica of the previous release, which does not lock the ticket, freezes in its transaction.
    let mut frozen =
        sqlx::PgConnection::connect_with(&orders.pool.connect_options()).await.unwrap();
    let mut tx = frozen.begin().await.unwrap();
    sqlx::query(
        "insert into orders (id, ticket_id, buyer, price, status, version, expires_at, created_at, updated_at)
         values ($1, $1, 'bob', 20.5, 'reserved', 1, now() + interval '1 h', now(), now())",
    )
    .bind(tickets[0])
    .execute(&mut *tx)
    .await
    .unwrap();

    let once_free = async || Answer::once_available(async || anna.reserve(tickets[0]).await).await;
    let waits = async {
        // The first one is part of a batch, the second one is alone.
        let answers = tokio::join!(once_free(), once_free());
        <[Answer; 2]>::from(answers)
    };
    let others = async {
        // The lock is held until all of them are answered: one that waited for it would be answered 503.
        for answer in join_all(tickets.iter().skip(1).map(|ticket| anna.reserve(*ticket))).await {
            assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
        }
        tx.commit().await.unwrap();
    };
    let (waited, ()) = tokio::join!(waits, others);
    for answer in waited {
        answer.is_problem(StatusCode::CONFLICT);
        assert!(answer.detail().starts_with("The ticket is reserved until"), "{}", answer.body);
    }
}

#[tokio::test]
async fn of_many_buyers_competing_for_a_few_tickets_one_gets_each_ticket() {
    let orders = Service::with_limit(10).await;
    let replica = orders.replica().await;
    let tickets = tickets(&orders, 5).await;
    let buyers: Vec<_> = (0..40).map(|n| orders.buyer(&format!("buyer {n}"))).collect();
    let answers = join_all(buyers.iter().enumerate().map(async |(n, buyer)| {
        let buyer = if n % 2 == 0 { buyer.at(&replica) } else { buyer.at(&orders.base) };
        join_all(tickets.iter().map(|ticket| buyer.reserve(*ticket))).await
    }))
    .await;
    let answers = answers.iter().flatten();
    let (made, refused): (Vec<_>, Vec<_>) =
        answers.partition(|answer| answer.status == StatusCode::CREATED);
    assert_eq!(made.len(), tickets.len());
    for answer in refused {
        answer.is_problem(StatusCode::CONFLICT);
        assert!(answer.detail().starts_with("The ticket is reserved"), "{}", answer.body);
    }
    orders.holds(5, 5).await;
}
