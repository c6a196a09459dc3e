//! `POST /api/orders` repeated with the same Idempotency-Key makes one order and gets one answer.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use futures::future::join_all;
use serde_json::json;
use sqlx::Connection;
use uuid::Uuid;

use crate::service::{Answer, Service};

/// A transaction holds the lock of an Idempotency-Key. Filtered by database, because other tests
/// use the same server.
const A_KEY_IS_CLAIMED: &str =
    "select count(*) = 1 from pg_locks join pg_database on database = pg_database.oid
     where datname = current_database() and locktype = 'advisory' and granted";

#[tokio::test]
async fn a_repeated_request_gets_the_first_answer_even_after_the_order_has_changed() {
    let orders = Service::start().await;
    let (anna, ticket) = (orders.buyer("anna"), orders.ticket("20.50").await);
    let first = anna.reserve_with_key("k-1", ticket).await;
    assert_eq!(first.status, StatusCode::CREATED);
    assert!(first.headers.get("idempotency-replayed").is_none());
    let written_otherwise = format!(r#"{{ "ticketId" : "{}" }}"#, ticket.simple());
    for after in ["reserved", "completed"] {
        if after == "completed" {
            anna.pay(&first.id(), "tok_visa").await;
        }
        let otherwise = anna.posting("/api/orders", &*written_otherwise);
        for again in [
            anna.reserve_with_key("k-1", ticket).await,
            Answer::of(otherwise.header("idempotency-key", "k-1")).await,
        ] {
            assert_eq!((again.status, &again.body), (StatusCode::CREATED, &first.body));
            assert_eq!(again.header("location"), first.header("location"));
            assert_eq!(again.header("content-type"), "application/json");
            assert_eq!(again.header("idempotency-replayed"), "true");
        }
    }
    orders.holds(1, 2).await;
}

#[tokio::test]
async fn a_key_reused_for_another_request_is_refused() {
    let orders = Service::start().await;
    let anna = orders.buyer("anna");
    anna.reserve_with_key("k", orders.ticket("20.50").await).await;
    let other = orders.ticket("20.50").await;
    let answer = anna.reserve_with_key("k", other).await;
    answer.is_problem(StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(answer.detail(), "This Idempotency-Key was used with a different request.");
    orders.holds(1, 1).await;
    assert_eq!(anna.reserve_with_key("l", other).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn two_buyers_can_use_the_same_key() {
    let orders = Service::start().await;
    // The last two would collide if the name and the key were simply concatenated.
    for (buyer, key) in [("anna", "k"), ("bob", "k"), ("anna", "kl"), ("annak", "l")] {
        let order = orders.buyer(buyer).reserve_with_key(key, orders.ticket("1").await).await;
        assert_eq!((order.status, &order.json()["buyer"]), (StatusCode::CREATED, &json!(buyer)));
    }
    orders.holds(4, 4).await;
}

#[tokio::test]
async fn of_concurrent_requests_with_one_key_one_creates_the_order() {
    let orders = Service::start().await;
    let (anna, ticket) = (orders.buyer("anna"), orders.ticket("20.50").await);
    let reserve = async || anna.reserve_with_key("k", ticket).await;
    let answers = join_all((0..20).map(|_| Answer::once_available(reserve))).await;
    let mut made = BTreeSet::new();
    for answer in answers {
        if answer.status == StatusCode::CREATED {
            made.insert(answer.body);
        } else {
            answer.is_problem(StatusCode::CONFLICT);
            assert!(answer.detail().contains("still under way"), "{}", answer.body);
        }
    }
    assert_eq!(made.len(), 1);
    orders.holds(1, 1).await;
}

#[tokio::test]
async fn a_key_whose_first_request_is_in_progress_is_answered_409() {
    let orders = Service::start().await;
    let (anna, ticket) = (orders.buyer("anna"), orders.ticket("20.50").await);
    let lock = orders.lock("orders").await;
    let reserve = async || anna.reserve_with_key("k", ticket).await;
    let (first, ()) = tokio::join!(Answer::once_available(reserve), async {
        orders.until(A_KEY_IS_CLAIMED).await;
        let second = Answer::once_available(reserve).await;
        second.is_problem(StatusCode::CONFLICT);
        assert!(second.detail().contains("still under way"), "{}", second.body);
        lock.close().await.unwrap();
    });
    assert_eq!(first.status, StatusCode::CREATED);
    let third = anna.reserve_with_key("k", ticket).await;
    assert_eq!((third.status, third.body), (StatusCode::CREATED, first.body));
    orders.holds(1, 1).await;
}

#[tokio::test]
async fn a_refused_request_does_not_use_up_its_key_and_can_be_retried_at_once() {
    let orders = Service::start().await;
    let (anna, bob) = (orders.buyer("anna"), orders.buyer("bob"));
    let unknown = Uuid::now_v7();
    for _ in 0..20 {
        anna.reserve_with_key("k", unknown).await.is_problem(StatusCode::NOT_FOUND);
    }
    orders.known_ticket(unknown, "20.50").await;
    let others = bob.reserve(unknown).await.id();
    for _ in 0..20 {
        let taken = anna.reserve_with_key("k", unknown).await;
        taken.is_problem(StatusCode::CONFLICT);
        assert!(taken.detail().starts_with("The ticket is reserved until"), "{}", taken.body);
    }
    bob.cancel(&others).await;
    assert_eq!(anna.reserve_with_key("k", unknown).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn a_malformed_key_is_refused() {
    let orders = Service::start().await;
    let (anna, ticket) = (orders.buyer("anna"), orders.ticket("20.50").await);
    for key in ["", "a b", "é", &"k".repeat(256)] {
        let answer = anna.reserve_with_key(key, ticket).await;
        let fields = [("Idempotency-Key", "must be 1-255 visible ASCII characters")];
        answer.refuses(StatusCode::BAD_REQUEST, &fields);
    }
    let twice =
        anna.reserving(ticket).header("idempotency-key", "a").header("idempotency-key", "b");
    let fields = [("Idempotency-Key", "must be given once")];
    Answer::of(twice).await.refuses(StatusCode::BAD_REQUEST, &fields);
    orders.holds(0, 0).await;
}
