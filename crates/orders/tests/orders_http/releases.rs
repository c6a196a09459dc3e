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

/// Runs the previous release's statement that stores a state, verbatim.
async fn handle_before(orders: &Service, version: i32) {
    let at = OffsetDateTime::from_unix_timestamp(1_767_323_045).unwrap();
    sqlx::query(
        "insert into tickets (id, title, price, version, created_at, updated_at, seller, hold,
                              event_id, processed_by)
         select distinct on (id) *
         from unnest($1::uuid[], $2::text[], $3::numeric[], $4::integer[], $5::timestamptz[],
                     $6::timestamptz[], $7::text[], $8::jsonb[], $9::uuid[], $10::text[])
              as copied (id, title, price, version, created_at, updated_at, seller, hold,
                         event_id, processed_by)
         order by id, version desc
         on conflict (id) do update
         set title = excluded.title, price = excluded.price, version = excluded.version,
             updated_at = excluded.updated_at, hold = excluded.hold, event_id = excluded.event_id,
             -- A replica of the release before leaves it out.
             seller = coalesce(excluded.seller, tickets.seller),
             processed_by = excluded.processed_by, processed_at = excluded.processed_at
         where tickets.version < excluded.version",
    )
    .bind(vec![ID.parse::<Uuid>().unwrap()])
    .bind(vec!["Concert"])
    .bind(vec!["20.50".parse::<common::events::money::Price>().unwrap()])
    .bind(vec![version])
    .bind(vec![at])
    .bind(vec![at])
    .bind(vec![Some("grace")])
    .bind(vec![Some(Json(json!({ "order_id": ID, "status": "reserved" })))])
    .bind(vec![Uuid::now_v7()])
    .bind(vec!["orders-old"])
    .execute(&orders.pool)
    .await
    .unwrap();
}

type Before = (
    Uuid,
    String,
    String,
    i32,
    OffsetDateTime,
    OffsetDateTime,
    Option<String>,
    Option<Json<Value>>,
    Uuid,
    String,
    OffsetDateTime,
);

/// Runs the previous release's statement that reads a ticket.
async fn read_before(orders: &Service) -> Before {
    sqlx::query_as(
        "select id, title, price::text, version, created_at, updated_at, seller, hold, event_id,
                    processed_by, processed_at from tickets where id = $1",
    )
    .bind(ID.parse::<Uuid>().unwrap())
    .fetch_one(&orders.pool)
    .await
    .unwrap()
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
    let path = format!("/api/tickets/{ID}");
    // This release reads what the previous one stored.
    handle_before(&orders, 1).await;
    let expected = |version: i32| {
        json!({
            "id": ID, "title": "Concert", "price": 20.5, "version": version, "seller": "grace",
            "createdAt": "2026-01-02T03:04:05.000000Z", "updatedAt": "2026-01-02T03:04:05.000000Z",
            "hold": { "orderId": ID, "status": "reserved" }, "processedBy": "orders-old",
        })
    };
    let known = || async {
        let mut known = orders.get(&path).await.json();
        let known = known.as_object_mut().unwrap();
        assert!(known.remove("eventId").is_some() && known.remove("processedAt").is_some());
        Value::Object(known.clone())
    };
    assert_eq!(known().await, expected(1));
    // The previous release reads what this one stored.
    handle(&orders, &with_seat(2)).await;
    assert_eq!(known().await["seat"]["number"], json!(1.5));
    let (_, title, price, version, created_at, _, seller, hold, ..) = read_before(&orders).await;
    assert_eq!((title.as_str(), price.as_str(), version), ("Concert", "20.50", 2));
    assert_eq!((created_at.unix_timestamp(), seller.as_deref()), (1_767_323_045, Some("grace")));
    assert_eq!(hold.unwrap().0, json!({ "order_id": ID, "status": "reserved" }));
    // What the previous release then changes must not bring back an older state here.
    handle_before(&orders, 3).await;
    assert_eq!(known().await, expected(3));
    handle(&orders, &with_seat(2)).await;
    assert_eq!(known().await, expected(3));
}
