//! Requests above a limit are refused, and those exactly at it are not.

use std::fmt::Write as _;

use common::pod::http::{MAX_HEAD, MAX_REQUEST_ID, MAX_URL};
use serde_json::json;

use crate::{client::BODY, service::Service};

#[tokio::test]
async fn a_head_of_over_16_kib_or_a_hundred_headers_is_answered_431() {
    let service = Service::start();
    let fits = format!("x-a: {}\r\n", "a".repeat(MAX_HEAD - 100));
    assert_eq!(service.client().await.get("/things/1", &fits).await.status, 200);
    for too_much in [format!("x-a: {}\r\n", "a".repeat(MAX_HEAD)), "x-a: b\r\n".repeat(100)] {
        let answer = service.client().await.get("/things/1", &too_much).await;
        assert_eq!((answer.status, answer.header("connection")), (431, "close"));
    }
}

#[tokio::test]
async fn a_url_of_over_2048_bytes_is_answered_414() {
    let service = Service::start();
    let mut client = service.client().await;
    let longest = format!("/things/{}", "a".repeat(MAX_URL - 8));
    assert_eq!(client.get(&longest, "").await.status, 200);
    client.get(&format!("{longest}a"), "").await.is_problem(414);
    client.get(&format!("/things/1?{longest}"), "").await.is_problem(414);
}

#[tokio::test]
async fn an_invalid_request_id_is_replaced() {
    let service = Service::start();
    let mut client = service.client().await;
    let longest = "i".repeat(MAX_REQUEST_ID);
    let kept = client.get("/things/1", &format!("x-request-id: {longest}\r\n")).await;
    assert_eq!(kept.header("x-request-id"), longest);
    for given in [&format!("{longest}i"), "", "a b", "é", "a\r\nx-request-id: b"] {
        let answer = client.get("/things/1", &format!("x-request-id: {given}\r\n")).await;
        let id = answer.header("x-request-id");
        assert_eq!((answer.status, id.len()), (200, 36), "{given}");
    }
}

#[tokio::test]
async fn an_answer_names_twenty_errors_and_says_how_many_more_there_are() {
    let service = Service::start();
    let long = "k".repeat(3_000);
    let mut body = format!(r#"{{"{long}":"{long}""#);
    for n in 0..500 {
        write!(body, r#","k{n}":1"#).unwrap();
    }
    let answer = service.client().await.post(&format!("{body}}}")).await;
    answer.is_problem(422);
    let problem = answer.json();
    assert_eq!(problem["errors"].as_array().unwrap().len(), 20);
    assert!(problem["detail"].as_str().unwrap().ends_with("; and 482 more"), "{problem}");
    assert!(answer.body.len() < 4_000, "{} bytes", answer.body.len());

    let wrong = service.client().await.post(&json!({ "name": { "a": long } }).to_string()).await;
    wrong.is_problem(422);
    assert!(wrong.body.len() < 1_000, "{} bytes", wrong.body.len());
}

#[tokio::test]
async fn a_duplicate_key_in_a_body_is_refused_and_named() {
    let service = Service::start();
    let mut client = service.client().await;
    assert_eq!(client.post(BODY).await.status, 200);
    for (body, field) in [
        (r#"{"name":"a","name":"a"}"#, "name"),
        (r#"{"name":"a","n\u0061me":"b"}"#, "name"),
        (r#"{"name":"a","more":{"b":[{"c":1,"c":2}]}}"#, "more.b.0.c"),
    ] {
        let answer = client.post(body).await;
        answer.is_problem(422);
        let errors = json!([{ "field": field, "message": "must be given once" }]);
        assert_eq!(answer.json()["errors"], errors, "{body}");
    }
}
