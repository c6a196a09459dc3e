//! Replicas of three releases on one database: the previous one, this one, and a later one with a
//! ticket field that this one does not know.

use axum::http::StatusCode;
use common::{
    bus::{Listener, Received},
    events::{EventSet, as_received::AsReceived, ticket::TicketEvent},
};
use orders::listener::TicketListener;
use serde_json::{Value, json};
use sqlx::types::Json;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::service::Service;

const ID: &str = "01936b2e-7c00-7000-8000-000000000001";

/// A state as a release that knows `seat` writes it.
fn with_seat(version: i32) -> String {
    format!(
        r#"{{"id":"{ID}","title":"Concert","price":20.50,"version":{version},"createdAt":"2026-01-02T03:04:05Z","updatedAt":"2026-01-02T03:04:05Z","seller":"grace","seat":{{"row":"\u0000","number":1.50}},"hold":{{"orderId":"{ID}","status":"reserved","until":7}},"created_at":"2026-01-02T03:04:05Z","updated_at":"2026-01-02T03:04:05Z"}}"#
    )
}

/// Has this release handle the event.
async fn handle(orders: &Service, state: &str) {
    let event = AsReceived::<TicketEvent>::decode("ticket:updated", 1, state).unwrap();
    let (id, time) = (Uuid::now_v7(), OffsetDateTime::now_utc());
    let received = Received::new(id, time, "orders-0".to_owned(), event);
    let mut tx = orders.pool.begin().await.unwrap();
    TicketListener.handle(&mut tx, &[&received]).await.unwrap();
    tx.commit().await.unwrap();
}

/// Runs the statement of 0.1.0 that stores a state, verbatim. `None` is a row from before 0.1.0, without a state.
async fn handle_before(orders: &Service, version: i32, state: Option<&str>) {
    let at = OffsetDateTime::from_unix_timestamp(1_767_323_045).unwrap();
    sqlx::query(
        "insert into tickets (id, version, price, state, state_version, event_id, processed_by, title,
                              created_at, updated_at, seller, hold)
         select distinct on (id) *
         from unnest($1::uuid[], $2::int4[], $3::numeric[], $4::text[]::json[], $5::int4[], $6::uuid[],
                     $7::text[], $8::text[], $9::timestamptz[], $10::timestamptz[], $11::text[], $12::jsonb[])
              as told (id, version, price, state, state_version, event_id, processed_by, title,
                       created_at, updated_at, seller, hold)
         order by id, version desc
         on conflict (id) do update
         set (id, version, price, state, state_version, event_id, processed_by, title,
              created_at, updated_at, seller, hold, processed_at)
             = row(excluded.id, excluded.version, excluded.price, excluded.state, excluded.state_version,
                   excluded.event_id, excluded.processed_by, excluded.title, excluded.created_at,
                   excluded.updated_at, excluded.seller, excluded.hold, excluded.processed_at)
         where tickets.version < excluded.version",
    )
    .bind(vec![ID.parse::<Uuid>().unwrap()])
    .bind(vec![version])
    .bind(vec!["20.50".parse::<common::events::money::Price>().unwrap()])
    .bind(vec![state])
    .bind(vec![state.map(|_| version)])
    .bind(vec![Uuid::now_v7()])
    .bind(vec!["orders-old"])
    .bind(vec!["Concert"])
    .bind(vec![at])
    .bind(vec![at])
    .bind(vec![Some("grace")])
    .bind(vec![Some(Json(json!({ "order_id": ID, "status": "reserved" })))])
    .execute(&orders.pool)
    .await
    .unwrap();
}

/// Runs the statement of 0.1.0 that reads a ticket's state, as far as it reads a row with a state.
async fn read_before(orders: &Service) -> Value {
    let state: String = sqlx::query_scalar(
        "select case when state_version = version then state else null end::text from tickets where id = $1",
    )
    .bind(ID.parse::<Uuid>().unwrap())
    .fetch_one(&orders.pool)
    .await
    .unwrap();
    serde_json::from_str(&state).unwrap()
}

/// What the API tells of the ticket, without what differs each time.
async fn known(orders: &Service) -> Value {
    let mut known = orders.get(&format!("/api/tickets/{ID}")).await.json();
    let known = known.as_object_mut().unwrap();
    assert!(known.remove("eventId").is_some() && known.remove("processedAt").is_some());
    Value::Object(known.clone())
}

#[tokio::test]
async fn a_field_added_by_a_newer_release_is_kept_digit_for_digit() {
    let orders = Service::start().await;
    handle(&orders, &with_seat(1)).await;
    for path in [format!("/api/tickets/{ID}"), "/api/tickets".to_owned()] {
        let answer = orders.get(&path).await;
        assert_eq!(answer.status, StatusCode::OK);
        let kept = r#""seat":{"row":"\u0000","number":1.50},"hold":{"orderId":"01936b2e-7c00-7000-8000-000000000001","status":"reserved","until":7}"#;
        assert!(answer.body.contains(kept), "{}", answer.body);
        assert!(answer.body.contains(r#""processedBy":"orders-0""#), "{}", answer.body);
        assert!(!answer.body.contains("created_at"), "{}", answer.body);
    }
}

#[tokio::test]
async fn replicas_of_the_previous_release_run_alongside() {
    let orders = Service::start().await;
    // This release reads what the previous one stored.
    handle_before(&orders, 1, Some(&with_seat(1))).await;
    let told = known(&orders).await;
    assert_eq!((&told["version"], &told["processedBy"]), (&json!(1), &json!("orders-old")));
    // The previous release reads what this one stored.
    handle(&orders, &with_seat(2)).await;
    assert_eq!(known(&orders).await["version"], 2);
    let read = read_before(&orders).await;
    assert_eq!((&read["version"], &read["title"]), (&json!(2), &json!("Concert")));
    // What the previous release then changes must not bring back an older state here.
    handle_before(&orders, 3, Some(&with_seat(3))).await;
    assert_eq!(known(&orders).await["version"], 3);
    handle(&orders, &with_seat(2)).await;
    assert_eq!(known(&orders).await["version"], 3);
}

#[tokio::test]
async fn a_ticket_stored_before_states_were_kept_is_shown_whole() {
    let orders = Service::start().await;
    handle_before(&orders, 1, None).await;
    let expected = json!({
        "id": ID, "title": "Concert", "price": 20.5, "version": 1, "seller": "grace",
        "createdAt": "2026-01-02T03:04:05.000000Z", "updatedAt": "2026-01-02T03:04:05.000000Z",
        "hold": { "orderId": ID, "status": "reserved" }, "processedBy": "orders-old",
    });
    assert_eq!(known(&orders).await, expected);
    // The next state replaces the columns.
    handle(&orders, &with_seat(2)).await;
    let told = known(&orders).await;
    assert_eq!((&told["version"], &told["seat"]["number"]), (&json!(2), &json!(1.5)));
}
