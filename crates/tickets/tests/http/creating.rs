//! `POST /api/tickets`: a valid ticket is stored exactly once, with its event; an invalid one is
//! refused with the reason.

use axum::http::StatusCode;
use futures::future::join_all;
use reqwest::{Method, header};
use serde_json::{Value, json};

use crate::service::{Answer, Service};

#[tokio::test]
async fn a_post_returns_the_ticket_and_its_location() {
    let tickets = Service::start().await;
    let answer = tickets.post(r#"{"title":"  Konzert für zwei ","price":20.5}"#).await;

    assert_eq!(answer.status, StatusCode::CREATED);
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("etag"), "\"1\"");
    let ticket = answer.json();
    assert_eq!(ticket["title"], "Konzert für zwei");
    assert!(answer.body.contains(r#""price":20.50,"version":1,"#), "{}", answer.body);
    assert_eq!(ticket["createdAt"], ticket["updatedAt"]);

    let path = answer.header("location").to_owned();
    assert_eq!(path, format!("/api/tickets/{}", ticket["id"].as_str().unwrap()));
    let read = tickets.get(&path).await;
    assert_eq!((read.status, read.body), (StatusCode::OK, answer.body));
}

#[tokio::test]
async fn a_posted_price_is_exact_everywhere() {
    let tickets = Service::start().await;
    for (given, kept) in [
        ("0", "0.00"),
        ("0.1", "0.10"),
        ("0.29", "0.29"),
        ("999999.99", "999999.99"),
        ("1e6", "1000000.00"),
    ] {
        let answer = tickets.post(&format!(r#"{{"title":"a","price":{given}}}"#)).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
        let id = answer.id();
        let kept = format!(r#""price":{kept},"#);
        let event: String = tickets
            .one(&format!("select envelope from bus.log where envelope like '%/tickets%{id}%'"))
            .await;
        let read = tickets.get(&format!("/api/tickets/{id}")).await.body;
        for text in [&answer.body, &read, &event] {
            assert!(text.contains(&kept), "{text}");
        }
    }
}

#[tokio::test]
async fn an_invalid_ticket_is_refused_and_each_invalid_field_named() {
    let tickets = Service::start().await;
    let long = json!({ "title": "é".repeat(201), "price": 1 }).to_string();
    let unprocessable: [(&str, &[(&str, &str)]); 17] = [
        ("{}", &[("title", "is required"), ("price", "is required")]),
        (r#"{"title":"a"}"#, &[("price", "is required")]),
        (r#"{"title":"","price":1}"#, &[("title", "must have at least one visible character")]),
        (
            r#"{"title":" \u3000\t","price":1}"#,
            &[("title", "must have at least one visible character")],
        ),
        (
            r#"{"title":"\u200b","price":1}"#,
            &[("title", "must have at least one visible character")],
        ),
        (&long, &[("title", "must have at most 200 characters, has 201")]),
        (
            r#"{"title":"a\u0000b","price":1}"#,
            &[("title", "must not hold control characters or line breaks, holds U+0000")],
        ),
        (
            r#"{"title":"a\u202eb","price":1}"#,
            &[(
                "title",
                "must not hold characters that change the direction of text, holds U+202E",
            )],
        ),
        (r#"{"title":7,"price":1}"#, &[("title", "invalid type: integer `7`, expected a string")]),
        (r#"{"title":null,"price":1}"#, &[("title", "invalid type: null, expected a string")]),
        (r#"{"title":"a","price":-0.01}"#, &[("price", "must not be negative")]),
        (r#"{"title":"a","price":1.005}"#, &[("price", "must have at most two decimals")]),
        (r#"{"title":"a","price":1000000.01}"#, &[("price", "must be at most 1000000.00")]),
        (r#"{"title":"a","price":1e400}"#, &[("price", "must be at most 1000000.00")]),
        (r#"{"title":"a","price":"20"}"#, &[("price", "must be a decimal number")]),
        (r#"{"title":"a","price":null}"#, &[("price", "must be a decimal number")]),
        (
            r#"{"title":"","price":-1,"id":"x","seat":1}"#,
            &[
                ("title", "must have at least one visible character"),
                ("price", "must not be negative"),
                ("id", "is not a field of this request"),
                ("seat", "is not a field of this request"),
            ],
        ),
    ];
    for (body, errors) in unprocessable {
        let answer = tickets.post(body).await;
        answer.refuses(StatusCode::UNPROCESSABLE_ENTITY, errors);
    }
    for body in ["", "hello", "[]", "null", "\"a\"", "{\"title\":\"a\",", "{\"title\":\"\u{1}\"}"] {
        let answer = tickets.post(body).await;
        answer.is_problem(StatusCode::BAD_REQUEST);
        assert!(answer.detail().starts_with("The body is not a JSON object: "), "{}", answer.body);
    }
    tickets.holds(0, 0).await;
}

#[tokio::test]
async fn a_request_that_reaches_no_handler_gets_the_right_status() {
    let tickets = Service::start().await;
    let large = json!({ "title": "a".repeat(16 * 1024), "price": 1 }).to_string();
    let answer = tickets.post(&large).await;
    answer.is_problem(StatusCode::PAYLOAD_TOO_LARGE);

    for content_type in [None, Some("text/plain"), Some("application/x-www-form-urlencoded")] {
        let mut request = tickets.request(Method::POST, "/api/tickets").body("{}");
        if let Some(content_type) = content_type {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        let answer = Answer::of(request).await;
        answer.is_problem(StatusCode::UNSUPPORTED_MEDIA_TYPE);
        assert_eq!(answer.detail(), "The Content-Type must be application/json.");
    }

    let answer = Answer::of(tickets.request(Method::DELETE, "/api/tickets")).await;
    answer.is_problem(StatusCode::METHOD_NOT_ALLOWED);
    for method in ["GET", "HEAD", "POST"] {
        assert!(answer.header("allow").contains(method), "{}", answer.header("allow"));
    }
    tickets.get("/api/orders").await.is_problem(StatusCode::NOT_FOUND);
    tickets.holds(0, 0).await;
}

#[tokio::test]
async fn each_committed_ticket_has_exactly_one_event_with_the_same_state() {
    let tickets = Service::start().await;
    let bodies: Vec<String> =
        (0..20).map(|n| format!(r#"{{"title":"t{n}","price":{n}}}"#)).collect();
    let answers = join_all(bodies.iter().map(|body| tickets.post(body))).await;
    tickets.holds(20, 20).await;
    for answer in answers {
        let event: Value = tickets
            .one(&format!(
                "select envelope::jsonb #- '{{data,created_at}}' #- '{{data,updated_at}}' from bus.log
                 where subject = 'ticket:created' and envelope::jsonb ->> 'subject' = '{}'",
                answer.id()
            ))
            .await;
        assert_eq!(event["data"], answer.json());
        assert_eq!(event["type"], "ticket:created");
    }
}

#[tokio::test]
async fn a_ticket_whose_event_cannot_be_stored_is_not_stored_and_the_answer_hides_the_cause() {
    let tickets = Service::start().await;
    tickets.execute("alter table bus.log rename to away").await;
    let keyed =
        Answer::of(tickets.posting(r#"{"title":"a","price":1}"#).header("idempotency-key", "k"))
            .await;
    for answer in [tickets.post(r#"{"title":"a","price":1}"#).await, keyed] {
        answer.is_problem(StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(answer.detail(), "Internal error. The service log has the details.");
    }
    tickets.execute("alter table bus.away rename to log").await;
    tickets.holds(0, 0).await;
    assert_eq!(tickets.one::<i64>("select count(*) from chassis.idempotency_keys").await, 0);
}
