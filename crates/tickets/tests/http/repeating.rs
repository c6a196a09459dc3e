//! A POST repeated with the same Idempotency-Key creates one ticket and gets one answer.

use std::time::Duration;

use axum::http::StatusCode;
use common::{bus::Shutdown, events::ticket::Ticket, pod::idempotency};
use futures::future::join_all;
use sqlx::Connection;
use uuid::Uuid;

use crate::service::{Answer, Service};

/// A transaction holds the lock of an Idempotency-Key. Filtered by database, because other tests
/// use the same server.
const A_KEY_IS_CLAIMED: &str =
    "select count(*) = 1 from pg_locks join pg_database on database = pg_database.oid
     where datname = current_database() and locktype = 'advisory' and granted";

#[tokio::test]
async fn a_repeated_request_gets_the_first_answer_and_creates_no_second_ticket() {
    let tickets = Service::start().await;
    let first = tickets
        .post_with_key("k 1".replace(' ', "-").as_str(), r#"{"title":"Concert","price":20.5}"#)
        .await;
    assert_eq!(first.status, StatusCode::CREATED);
    assert!(first.headers.get("idempotency-replayed").is_none());
    // A later change of the ticket does not change the POST's answer.
    tickets.put(&first.id(), "*", r#"{"title":"Changed","price":1}"#).await;

    for same in
        [r#"{"title":"Concert","price":20.5}"#, r#"{ "price": 20.50, "title": " Concert " }"#]
    {
        let again = tickets.post_with_key("k-1", same).await;
        assert_eq!((again.status, &again.body), (StatusCode::CREATED, &first.body));
        assert_eq!(again.header("location"), first.header("location"));
        assert_eq!(again.header("etag"), "\"1\"");
        assert_eq!(again.header("idempotency-replayed"), "true");
    }
    tickets.holds(1, 2).await;
}

#[tokio::test]
async fn a_key_reused_for_another_request_is_refused() {
    let tickets = Service::start().await;
    tickets.post_with_key("k", r#"{"title":"Concert","price":20.5}"#).await;
    for other in [r#"{"title":"Concert","price":20.51}"#, r#"{"title":"concert","price":20.5}"#] {
        let answer = tickets.post_with_key("k", other).await;
        answer.is_problem(StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(answer.detail(), "This Idempotency-Key was used with a different request.");
    }
    tickets.holds(1, 1).await;
}

#[tokio::test]
async fn a_refused_request_does_not_use_up_its_key() {
    let tickets = Service::start().await;
    let refused = tickets.post_with_key("k", r#"{"title":"","price":20.5}"#).await;
    refused.is_problem(StatusCode::UNPROCESSABLE_ENTITY);
    let mended = tickets.post_with_key("k", r#"{"title":"Concert","price":20.5}"#).await;
    assert_eq!(mended.status, StatusCode::CREATED);
}

#[tokio::test]
async fn a_key_whose_first_request_is_in_progress_is_answered_409() {
    let tickets = Service::start().await;
    let body = r#"{"title":"Concert","price":20.5}"#;
    let lock = tickets.lock_tickets().await;
    let post = async || tickets.post_with_key("k", body).await;
    let (first, ()) = tokio::join!(Answer::once_available(post), async {
        tickets.until(A_KEY_IS_CLAIMED).await;
        let second = Answer::once_available(post).await;
        second.is_problem(StatusCode::CONFLICT);
        assert!(second.detail().contains("still under way"), "{}", second.body);
        lock.close().await.unwrap();
    });
    assert_eq!(first.status, StatusCode::CREATED);
    let third = tickets.post_with_key("k", body).await;
    assert_eq!((third.status, third.body), (StatusCode::CREATED, first.body));
    tickets.holds(1, 1).await;
}

#[tokio::test]
async fn of_concurrent_requests_with_one_key_one_creates_the_ticket() {
    let tickets = Service::start().await;
    let body = r#"{"title":"Concert","price":20.5}"#;
    let post = async || tickets.post_with_key("k", body).await;
    let answers = join_all((0..20).map(|_| Answer::once_available(post))).await;
    let mut made = std::collections::BTreeSet::new();
    for answer in answers {
        match answer.status {
            StatusCode::CREATED => drop(made.insert(answer.body)),
            status => assert_eq!(status, StatusCode::CONFLICT),
        }
    }
    assert_eq!(made.len(), 1);
    tickets.holds(1, 1).await;
}

#[tokio::test]
async fn a_malformed_key_is_refused() {
    let tickets = Service::start().await;
    for key in ["", "a b", "é", "a\tb", &"k".repeat(256)] {
        let answer = tickets.post_with_key(key, r#"{"title":"a","price":1}"#).await;
        let fields = [("Idempotency-Key", "must be 1-255 visible ASCII characters")];
        answer.refuses(StatusCode::BAD_REQUEST, &fields);
    }
    let twice = tickets.posting(r#"{"title":"a","price":1}"#);
    let twice =
        Answer::of(twice.header("idempotency-key", "a").header("idempotency-key", "b")).await;
    twice.is_problem(StatusCode::BAD_REQUEST);
    tickets.holds(0, 0).await;
    let longest = tickets.post_with_key(&"~".repeat(255), r#"{"title":"a","price":1}"#).await;
    assert_eq!(longest.status, StatusCode::CREATED);
}

#[tokio::test]
async fn a_key_stored_by_the_previous_release_is_recognized() {
    let tickets = Service::start().await;
    // Its statement, run while replicas of both releases run.
    tickets
        .execute(
            "insert into idempotency_keys (key, request_hash, ticket_id, answer)
             values ('k', sha256('Concert\\00020.50'::bytea), gen_random_uuid(), '{}')",
        )
        .await;
    let again = tickets.post_with_key("k", r#"{"title":"Concert","price":20.5}"#).await;
    assert_eq!((again.status, &*again.body), (StatusCode::CREATED, "{}"));
    // Another request under this key is new: the old release stored no caller, so nobody knows
    // whose key it was.
    let other = tickets.post_with_key("k", r#"{"title":"Concert","price":21}"#).await;
    assert_eq!(other.status, StatusCode::CREATED, "{}", other.body);
    tickets.execute("delete from idempotency_keys").await;
    let anew = tickets.post_with_key("k", r#"{"title":"Concert","price":20.5}"#).await;
    assert!(anew.headers.get("idempotency-replayed").is_none());
    let kept: String = tickets.one("select answer from idempotency_keys").await;
    assert_eq!(kept, anew.body);
}

#[tokio::test]
async fn answers_stored_by_this_and_the_previous_release_are_replayed_byte_for_byte_by_both() {
    let tickets = Service::start().await;
    let body = r#"{"id":"01936b2e-7c00-7000-8000-000000000001","title":"Concert","price":20.50,"version":1,"created_at":"2026-01-02T03:04:05Z","updated_at":"2026-01-02T03:04:05Z"}"#;
    // Its statements, verbatim, run while replicas of both releases run.
    let hash: Vec<u8> = tickets.one("select sha256('Concert\\00020.50'::bytea)").await;
    sqlx::query(
        "insert into bus.idempotency_keys (key, request_hash, resource_id, answer)
             values ($1, $2, $3, $4)",
    )
    .bind("sally k")
    .bind(&hash)
    .bind(Uuid::now_v7())
    .bind(body)
    .execute(&tickets.pool)
    .await
    .unwrap();
    let again = tickets.post_with_key("k", r#"{"title":"Concert","price":20.5}"#).await;
    assert_eq!((again.status, &*again.body), (StatusCode::CREATED, body));
    serde_json::from_str::<Ticket>(&again.body).unwrap();
    let made = tickets.post_with_key("l", r#"{"title":"Concert","price":20.5}"#).await;
    let found: (Vec<u8>, Uuid, String) = sqlx::query_as(
        "select request_hash, resource_id, answer from bus.idempotency_keys
             where key = $1 or (key = $2 and request_hash = $3)
             order by key = $1 desc limit 1",
    )
    .bind("sally l")
    .bind("l")
    .bind(&hash)
    .fetch_one(&tickets.pool)
    .await
    .unwrap();
    assert_eq!((found.0, found.2), (hash, made.body));
    let pruned = sqlx::query(
        "delete from bus.idempotency_keys where key in (
             select key from bus.idempotency_keys where created_at < now() - $1
             order by created_at limit $2 for update skip locked)",
    )
    .bind(Duration::ZERO)
    .bind(1_000_i64)
    .execute(&tickets.pool)
    .await
    .unwrap();
    assert_eq!(pruned.rows_affected(), 2);
}

#[tokio::test]
async fn a_key_expires_after_its_time_and_not_before() {
    let tickets = Service::start().await;
    let body = r#"{"title":"Concert","price":20.5}"#;
    for key in ["a", "b", "c"] {
        tickets.post_with_key(key, body).await;
    }
    tickets.execute("update chassis.idempotency_keys set created_at = created_at - interval '25 h' where key <> 'sally c'").await;
    let (shutdown, _reason) = Shutdown::new();
    tokio::spawn(idempotency::prune(tickets.pool.clone().into(), shutdown.clone()));
    tickets.until("select count(*) < 3 from chassis.idempotency_keys").await;
    shutdown.begin();
    assert_eq!(
        tickets.one::<String>("select string_agg(key, '') from chassis.idempotency_keys").await,
        "sally c"
    );
}
