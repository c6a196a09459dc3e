//! Services that cannot be found, or that answer only some of the console's questions.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    Json, Router,
    http::StatusCode,
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::world::World;

/// More events than one question may name.
const EVENTS: usize = 500;

fn part<'a>(snapshot: &'a Value, name: &str) -> &'a Value {
    let mut parts = snapshot["parts"].as_array().into_iter().flatten();
    parts.find(|part| part["name"] == name).unwrap_or(&Value::Null)
}

#[tokio::test]
async fn a_service_without_replicas_is_shown_as_down() {
    let services = "orders=http://orders.invalid:9000";
    let world = World::start_with(&[("CONSOLE_SERVICES", services)]).await;
    let is_down = |snapshot: &Value| part(snapshot, "orders")["state"] == "down";
    world.until("orders is down", "/api/snapshot", is_down).await;
}

/// A service that published events, and whose first answer about what its queue group received is its only one.
async fn service_that_answers_once() -> String {
    let events: Vec<Value> = (0..EVENTS)
        .map(|n| json!({ "id": format!("event-{n}"), "subject": "ticket:created", "published": true }))
        .collect();
    let newest = json!({ "events": events, "lost": 0, "next": null });
    let asked = Arc::new(AtomicUsize::new(0));
    let received = async move || {
        let first = asked.fetch_add(1, Ordering::Relaxed) == 0;
        let status = if first { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (status, Json(json!({ "queueGroups": ["orders-service"], "received": [] })))
    };
    let routes = Router::new()
        .route("/readyz", get(|| async {}))
        .route("/metrics", get(|| async { "process_info{client_id=\"orders-1\"} 1\n" }))
        .route("/operations", get(|| async { Json(json!({ "streams": ["TICKETS"] })) }))
        .route("/operations/events/newest", get(move || async { Json(newest) }))
        .route("/operations/events/received", post(received));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, routes).await.unwrap() });
    format!("orders=http://{address}")
}

#[tokio::test]
async fn events_are_not_missing_because_a_service_did_not_say_what_it_received() {
    let services = service_that_answers_once().await;
    let world = World::start_with(&[("CONSOLE_SERVICES", &services)]).await;
    let member = world.member("orders-2", "orders-service").await;
    let stream = async_nats::jetstream::stream::Config {
        name: "TICKETS".to_owned(),
        subjects: vec!["ticket:created".to_owned()],
        ..Default::default()
    };
    let stream = member.bus.jetstream.create_stream(stream).await.unwrap();
    let group = async_nats::jetstream::consumer::pull::Config {
        durable_name: Some("orders-service".to_owned()),
        ..Default::default()
    };
    stream.create_consumer(group).await.unwrap();
    let is_ready = |snapshot: &Value| part(snapshot, "orders-1")["state"] == "ready";
    world.until("the service is ready", "/api/snapshot", is_ready).await;
    let (status, totals) = world.get("/api/totals").await;
    assert_eq!(status, 200, "{totals}");
    let group = &totals["streams"][0]["groups"][0];
    assert_eq!((&group["service"], &group["missing"]), (&Value::Null, &json!(0)), "{totals}");
    let unknown = totals["unknown"].to_string();
    assert!(unknown.contains("events of TICKETS in orders: it answers 503"), "{unknown}");
}
