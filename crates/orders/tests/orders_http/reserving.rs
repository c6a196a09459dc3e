//! `POST /api/orders`: one buyer gets the ticket, and the order is published once.

use std::time::Duration;

use axum::http::StatusCode;
use futures::future::join_all;
use reqwest::{Method, header};
use serde_json::{Value, json};
use testkit::tokens;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::{NoContext, Timestamp, Uuid};

use crate::service::{Answer, Service};

const UNKNOWN: &str = "01936b2e-7c00-7000-8000-000000000001";

fn at(order: &Value, field: &str) -> OffsetDateTime {
    OffsetDateTime::parse(order[field].as_str().unwrap(), &Rfc3339).unwrap()
}

#[tokio::test]
async fn a_reservation_returns_the_order_and_its_location() {
    let orders = Service::with_reservation(Duration::from_millis(90_500)).await;
    let (anna, ticket) = (orders.buyer("anna"), orders.ticket("20.5").await);
    let answer = anna.reserve(ticket).await;

    assert_eq!(answer.status, StatusCode::CREATED);
    assert_eq!(answer.header("content-type"), "application/json");
    let order = answer.json();
    assert_eq!(order["ticketId"], json!(ticket));
    assert_eq!(order["buyer"], "anna");
    assert!(answer.body.contains(r#""price":20.50,"status":"reserved","version":1,"#));
    assert_eq!(at(&order, "expiresAt") - at(&order, "createdAt"), Duration::from_millis(90_500));
    assert_eq!(order["updatedAt"], order["createdAt"]);
    assert!(order.get("payment").is_none());

    let path = answer.header("location").to_owned();
    assert_eq!(path, format!("/api/orders/{}", answer.id()));
    let read = anna.get(&path).await;
    assert_eq!((read.status, read.body), (StatusCode::OK, answer.body.clone()));
    let events = orders.events(&answer.id()).await;
    assert_eq!((events.len(), &events[0]["type"]), (1, &json!("order:created")));
    assert_eq!(events[0]["data"], order);
}

#[tokio::test]
async fn a_reservations_price_is_exactly_the_tickets() {
    let orders = Service::start().await;
    for (price, kept) in [("0", "0.00"), ("0.29", "0.29"), ("1000000", "1000000.00")] {
        let order = orders.buyer("anna").reserve(orders.ticket(price).await).await;
        let id = order.id();
        let event: String =
            orders.one(&format!("select envelope from bus.log where envelope like '%{id}%'")).await;
        for text in [&order.body, &event] {
            assert!(text.contains(&format!(r#""price":{kept},"#)), "{text}");
        }
    }
}

#[tokio::test]
async fn an_unknown_ticket_is_answered_404() {
    let orders = Service::start().await;
    let anna = orders.buyer("anna");
    let (now, day) = (std::time::UNIX_EPOCH.elapsed().unwrap(), Duration::from_hours(24));
    let made = |when: Duration| Uuid::new_v7(Timestamp::from_unix(NoContext, when.as_secs(), 0));
    // Its event may be on its way, or the creator's clock was wrong.
    for lately in [Uuid::now_v7(), made(now - day * 9 / 10), made(now + day / 2)] {
        let ordered = anna.reserve(lately).await;
        let read = orders.get(&format!("/api/tickets/{lately}")).await;
        for answer in [ordered, read] {
            answer.is_problem(StatusCode::NOT_FOUND);
            assert_eq!(answer.header("retry-after"), "1");
            assert!(answer.detail().ends_with("its event may be on its way. Try again."));
        }
    }
    for nobodys in [made(now - day * 2), Uuid::new_v4(), Uuid::nil()] {
        let answer = anna.reserve(nobodys).await;
        answer.is_problem(StatusCode::NOT_FOUND);
        assert_eq!(answer.header("retry-after"), "");
        assert_eq!(answer.detail(), "This service has no ticket with this id.");
    }
    orders.holds(0, 0).await;
}

#[tokio::test]
async fn an_unavailable_ticket_is_answered_409_with_the_reason() {
    let orders = Service::start().await;
    let (anna, bob) = (orders.buyer("anna"), orders.buyer("bob"));
    let ticket = orders.ticket("20.50").await;
    let order = anna.reserve(ticket).await;
    let (id, until) = (order.id(), order.json()["expiresAt"].as_str().unwrap().to_owned());
    let reserved = format!(
        "The ticket is reserved until {until}. If it is not paid by then, it becomes available again."
    );
    let yours = format!("You have already reserved this ticket with order {id}.");
    let is_taken = async |by_you: &str, by_another: &str| {
        for (buyer, detail) in [(&anna, by_you), (&bob, by_another)] {
            let answer = buyer.reserve(ticket).await;
            answer.is_problem(StatusCode::CONFLICT);
            assert_eq!(answer.detail(), detail);
        }
    };
    is_taken(&yours, &reserved).await;

    assert_eq!(anna.pay(&id, "tok_visa").await.status, StatusCode::OK);
    is_taken(
        &format!("You have already bought this ticket with order {id}."),
        "The ticket is sold.",
    )
    .await;
    orders.holds(1, 2).await;
}

#[tokio::test]
async fn a_released_ticket_can_be_ordered_again() {
    let orders = Service::start().await;
    let ticket = orders.ticket("20.50").await;
    let (anna, bob) = (orders.buyer("anna"), orders.buyer("bob"));
    let first = anna.reserve(ticket).await.id();
    anna.cancel(&first).await;
    let second = bob.reserve(ticket).await;
    assert_eq!(second.status, StatusCode::CREATED);
    orders.time_passes(&second.id()).await;
    orders.expires_until("select count(*) = 1 from orders where status = 'expired'").await;
    let third = anna.reserve(ticket).await;
    assert_eq!(third.status, StatusCode::CREATED);

    orders.is_now(&anna, &first, "cancelled", 2).await;
    orders.is_now(&bob, &second.id(), "expired", 2).await;
    orders.is_now(&anna, &third.id(), "reserved", 1).await;
}

#[tokio::test]
async fn an_invalid_order_is_refused_and_each_invalid_field_named() {
    let orders = Service::start().await;
    let anna = orders.buyer("anna");
    let ticket = orders.ticket("20.50").await;
    let post = async |body: &str| Answer::of(anna.posting("/api/orders", body)).await;
    let other = json!({ "ticketId": ticket, "price": 0.01, "buyer": "bob" }).to_string();
    let unprocessable: [(&str, &[(&str, &str)]); 5] = [
        ("{}", &[("ticketId", "is required")]),
        (
            r#"{"ticketId":7}"#,
            &[("ticketId", "invalid type: integer `7`, expected a formatted UUID string")],
        ),
        (
            r#"{"ticketId":null}"#,
            &[("ticketId", "invalid type: null, expected a formatted UUID string")],
        ),
        (
            r#"{"ticket_id":"x"}"#,
            &[("ticketId", "is required"), ("ticket_id", "is not a field of this request")],
        ),
        // A request cannot set the price or the buyer.
        (
            &other,
            &[
                ("buyer", "is not a field of this request"),
                ("price", "is not a field of this request"),
            ],
        ),
    ];
    for (body, errors) in unprocessable {
        post(body).await.refuses(StatusCode::UNPROCESSABLE_ENTITY, errors);
    }
    let no_uuid = post(r#"{"ticketId":"x"}"#).await;
    no_uuid.is_problem(StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(no_uuid.errors()[0].0, "ticketId");
    for body in ["", "hello", "[]", "null", "{\"ticketId\":"] {
        let answer = post(body).await;
        answer.is_problem(StatusCode::BAD_REQUEST);
        assert!(answer.detail().starts_with("The body is not a JSON object: "), "{}", answer.body);
    }
    post(&" ".repeat(16 * 1024 + 1)).await.is_problem(StatusCode::PAYLOAD_TOO_LARGE);
    for content_type in [None, Some("text/plain")] {
        let mut request = anna.request(Method::POST, "/api/orders").body("{}");
        if let Some(content_type) = content_type {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        Answer::of(request).await.is_problem(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    orders.holds(0, 0).await;
}

#[tokio::test]
async fn of_fifty_concurrent_buyers_one_gets_the_ticket() {
    let orders = Service::start().await;
    let ticket = orders.ticket("20.50").await;
    let buyers: Vec<_> = (0..50).map(|n| orders.buyer(&format!("buyer {n}"))).collect();
    let answers = join_all(buyers.iter().map(|buyer| buyer.reserve(ticket))).await;
    let (won, lost): (Vec<_>, Vec<_>) =
        answers.iter().partition(|answer| answer.status == StatusCode::CREATED);
    assert_eq!((won.len(), lost.len()), (1, 49));
    for answer in lost {
        answer.is_problem(StatusCode::CONFLICT);
        assert!(answer.detail().starts_with("The ticket is reserved until "), "{}", answer.body);
    }
    orders.holds(1, 1).await;
}

#[tokio::test]
async fn an_order_whose_event_cannot_be_stored_is_not_stored_and_uses_up_no_key() {
    let orders = Service::start().await;
    let (anna, ticket) = (orders.buyer("anna"), orders.ticket("20.50").await);
    orders.execute("alter table bus.log rename to away").await;
    for answer in [anna.reserve(ticket).await, anna.reserve_with_key("k", ticket).await] {
        answer.is_problem(StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(answer.detail(), "Internal error. The service log has the details.");
    }
    orders.execute("alter table bus.away rename to log").await;
    orders.holds(0, 0).await;
    let again = anna.reserve_with_key("k", ticket).await;
    assert_eq!(again.status, StatusCode::CREATED);
    assert!(again.headers.get("idempotency-replayed").is_none());
}

#[tokio::test]
async fn an_order_that_is_not_committed_has_no_event() {
    let orders = Service::start().await;
    let (anna, ticket) = (orders.buyer("anna"), orders.ticket("20.50").await);
    orders.commits_of_orders_fail().await;
    for answer in [anna.reserve(ticket).await, anna.reserve_with_key("k", ticket).await] {
        answer.is_problem(StatusCode::INTERNAL_SERVER_ERROR);
    }
    orders.holds(0, 0).await;
}

#[tokio::test]
async fn an_order_belongs_to_the_trace_of_its_request() {
    let orders = Service::start().await;
    let ticket = orders.ticket("20.50").await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let traced = orders.buyer("anna").reserving(ticket);
    let traced = traced.header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01"));
    let order = Answer::of(traced).await.id();
    let event = &orders.events(&order).await[0];
    assert!(event["traceparent"].as_str().unwrap().starts_with(&format!("00-{trace}-")));
}

#[tokio::test]
async fn an_unreachable_database_gives_503_with_retry_after() {
    let orders = Service::without_database().await;
    let (anna, id) = (orders.buyer("anna"), UNKNOWN);
    for answer in [
        anna.reserve(Uuid::now_v7()).await,
        anna.get("/api/orders").await,
        anna.read(id).await,
        anna.cancel(id).await,
        anna.pay(id, "tok_visa").await,
    ] {
        answer.is_problem(StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.header("retry-after"), "1");
    }
    // Tokens are still checked.
    let nobody = orders.bearer(tokens::unsigned(&tokens::claims("anna")));
    nobody.read(id).await.is_problem(StatusCode::UNAUTHORIZED);
}
