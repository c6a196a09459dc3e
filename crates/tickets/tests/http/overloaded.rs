//! A request that an overloaded service or its database cannot take is refused and leaves nothing
//! behind.

use axum::http::StatusCode;
use sqlx::Connection;

use crate::service::Service;

/// Two transactions wait for a lock. Filtered by database, because other tests use the same server.
const TWO_WAIT: &str =
    "select count(*) = 2 from pg_locks join pg_database on database = pg_database.oid
     where datname = current_database() and not granted";

#[tokio::test]
async fn an_unreachable_database_gives_503_with_retry_after() {
    let tickets = Service::without_database().await;
    for answer in
        [tickets.post(r#"{"title":"a","price":1}"#).await, tickets.get("/api/tickets").await]
    {
        answer.is_problem(StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.header("retry-after"), "1");
        assert!(answer.detail().starts_with("The database is unavailable."));
    }
}

#[tokio::test]
async fn a_request_above_the_limit_waits_for_up_to_a_second_and_those_within_it_finish() {
    let tickets = Service::with_concurrency(2).await;
    let lock = tickets.lock_tickets().await;
    let body = r#"{"title":"a","price":1}"#;
    // With a key each request has its own transaction, so its wait for the lock is visible.
    let (first, second) = (tickets.post_with_key("1", body), tickets.post_with_key("2", body));
    let (first, second, ()) = tokio::join!(first, second, async {
        tickets.until(TWO_WAIT).await;
        let third = tickets.post(body).await;
        third.is_problem(StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(third.header("retry-after"), "1");
        assert_eq!(third.detail(), "Too many requests in progress. Retry later.");
        lock.close().await.unwrap();
    });
    assert_eq!([first.status, second.status], [StatusCode::CREATED; 2]);
    assert_eq!(tickets.post(body).await.status, StatusCode::CREATED);
    tickets.holds(3, 3).await;
}

#[tokio::test]
async fn a_statement_that_waits_too_long_is_cancelled_and_leaves_nothing() {
    let tickets = Service::start().await;
    let lock = tickets.lock_tickets().await;
    let answer = tickets.post(r#"{"title":"a","price":1}"#).await;
    answer.is_problem(StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.header("retry-after"), "1");
    lock.close().await.unwrap();
    tickets.holds(0, 0).await;
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_cancelled_and_leaves_nothing() {
    let tickets = Service::patient().await;
    let lock = tickets.lock_tickets().await;
    let answer = tickets.post_with_key("k", r#"{"title":"a","price":1}"#).await;
    answer.is_problem(StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.header("retry-after"), "1");
    assert!(answer.detail().contains("may or may not have taken effect"));
    lock.close().await.unwrap();
    tickets.until("select count(*) = 0 from pg_locks where relation = 'tickets'::regclass").await;
    tickets.holds(0, 0).await;
}
