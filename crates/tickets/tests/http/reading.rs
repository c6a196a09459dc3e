//! `GET /api/tickets` and `GET /api/tickets/{id}`: pages, conditional requests, and unknown or
//! malformed ids.

use axum::http::StatusCode;
use reqwest::{Method, header};
use serde_json::Value;

use crate::service::{Answer, Service};

#[tokio::test]
async fn a_ticket_that_the_client_has_cached_is_not_sent_again() {
    let tickets = Service::start().await;
    let id = tickets.post(r#"{"title":"Concert","price":20.5}"#).await.id();
    let path = format!("/api/tickets/{id}");
    let conditional = |tags: &str| {
        Answer::of(tickets.request(Method::GET, &path).header(header::IF_NONE_MATCH, tags))
    };
    for tags in ["\"1\"", "W/\"1\"", "\"7\", \"1\"", "*"] {
        let answer = conditional(tags).await;
        assert_eq!((answer.status, &*answer.body), (StatusCode::NOT_MODIFIED, ""), "{tags}");
        assert_eq!(answer.header("etag"), "\"1\"");
    }
    let newer = conditional("\"2\"").await;
    assert_eq!(
        (newer.status, newer.header("cache-control")),
        (StatusCode::OK, "private, no-cache")
    );
    conditional("1").await.is_problem(StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn an_unknown_ticket_is_answered_404_and_a_malformed_id_400() {
    let tickets = Service::start().await;
    let absent = tickets.get("/api/tickets/01936b2e-7c00-7000-8000-000000000001").await;
    absent.is_problem(StatusCode::NOT_FOUND);
    for id in ["7", "01936b2e7c0070008000000000000001", "%00", "%ff", "a%2Fb"] {
        let answer = tickets.get(&format!("/api/tickets/{id}")).await;
        answer.is_problem(StatusCode::BAD_REQUEST);
        assert_eq!(answer.errors()[0].0, "id", "{id}");
    }
}

#[tokio::test]
async fn pages_show_each_ticket_once_newest_first_while_new_tickets_arrive() {
    let tickets = Service::start().await;
    let mut ids = Vec::new();
    for n in 0..7 {
        ids.push(tickets.post(&format!(r#"{{"title":"t{n}","price":{n}}}"#)).await.id());
    }
    ids.reverse();
    let (mut seen, mut path) = (Vec::new(), "/api/tickets?limit=3".to_owned());
    let mut sizes = Vec::new();
    loop {
        let page = tickets.get(&path).await.json();
        let rows = page["tickets"].as_array().unwrap();
        sizes.push(rows.len());
        seen.extend(rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()));
        tickets.post(r#"{"title":"meanwhile","price":1}"#).await;
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/tickets?limit=3&after={next}");
    }
    assert_eq!((seen, sizes), (ids, vec![3, 3, 1]));
}

#[tokio::test]
async fn a_full_last_page_has_no_next_and_an_empty_list_is_a_page() {
    let tickets = Service::start().await;
    assert_eq!(tickets.get("/api/tickets").await.body, r#"{"tickets":[],"next":null}"#);
    for _ in 0..21 {
        tickets.post(r#"{"title":"a","price":1}"#).await;
    }
    let exactly = tickets.get("/api/tickets?limit=21").await.json();
    assert_eq!(
        (exactly["tickets"].as_array().unwrap().len(), &exactly["next"]),
        (21, &Value::Null)
    );
    let default = tickets.get("/api/tickets").await.json();
    assert_eq!(default["tickets"].as_array().unwrap().len(), 20);
    assert!(default["next"].is_string());
}

#[tokio::test]
async fn an_invalid_page_request_is_refused_and_the_parameter_named() {
    let tickets = Service::start().await;
    let limit = "must be a whole number from 1 to 100";
    let after = "must be the next of an earlier page";
    for (query, field, message) in [
        ("limit=0", "limit", limit),
        ("limit=101", "limit", limit),
        ("limit=", "limit", limit),
        ("limit=%2B5", "limit", limit),
        ("limit=1.5", "limit", limit),
        ("limit=99999999999999999999", "limit", limit),
        ("after=", "after", after),
        ("after=7", "after", after),
        ("after=01936b2e-7c00-7000-8000-000000000001", "after", after),
        ("limit=5&limit=5", "limit", "must be given once"),
        ("page=2", "page", "is not a parameter of this request"),
    ] {
        let answer = tickets.get(&format!("/api/tickets?{query}")).await;
        answer.refuses(StatusCode::UNPROCESSABLE_ENTITY, &[(field, message)]);
    }
    let all = tickets.get("/api/tickets?limit=0&after=7&page=2").await;
    assert_eq!(all.errors().len(), 3, "{}", all.body);
}
