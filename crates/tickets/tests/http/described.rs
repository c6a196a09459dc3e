//! The headers of every answer, and the API's machine-readable and HTML descriptions.

use axum::http::StatusCode;
use common::pod::{page::MAX_LIMIT, problem::MAX_ERRORS};
use serde_json::{Value, json};

use crate::service::{Answer, Service};

#[tokio::test]
async fn every_answer_has_its_request_id_its_trace_and_the_security_headers() {
    let tickets = Service::start().await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let created = Answer::of(
        tickets
            .posting(r#"{"title":"a","price":1}"#)
            .header("x-request-id", "mine-1")
            .header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01")),
    )
    .await;
    assert_eq!(created.header("x-request-id"), "mine-1");
    assert!(created.header("traceparent").starts_with(&format!("00-{trace}-")));
    let event: String = tickets.one("select envelope from bus.log").await;
    let event: Value = serde_json::from_str(&event).unwrap();
    assert!(event["traceparent"].as_str().unwrap().starts_with(&format!("00-{trace}-")));

    for answer in [created, tickets.get("/api/tickets/x").await, tickets.get("/nothing").await] {
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("x-frame-options"), "DENY");
        assert_eq!(answer.header("referrer-policy"), "no-referrer");
        assert!(answer.header("content-security-policy").starts_with("default-src 'none'"));
        assert!(!answer.header("x-request-id").is_empty());
        assert_eq!(answer.header("traceparent").len(), 55);
    }
}

#[tokio::test]
async fn the_description_lists_every_route_with_its_errors() {
    let tickets = Service::without_database().await;
    let answer = tickets.get("/openapi.json").await;
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (StatusCode::OK, "application/json")
    );
    let description = answer.json();
    let statuses = |path: &str, method: &str| {
        let responses = description["paths"][path][method]["responses"].as_object().unwrap();
        responses.keys().map(|status| status.parse().unwrap()).collect::<Vec<u16>>()
    };
    let one = "/api/tickets/{id}";
    assert_eq!(
        statuses("/api/tickets", "post"),
        [201, 400, 401, 408, 409, 413, 414, 415, 422, 431, 500, 503]
    );
    assert_eq!(statuses("/api/tickets", "get"), [200, 304, 408, 414, 422, 431, 500, 503]);
    assert_eq!(statuses(one, "get"), [200, 304, 400, 404, 408, 414, 431, 500, 503]);
    assert_eq!(
        statuses(one, "put"),
        [200, 400, 401, 403, 404, 408, 409, 412, 413, 414, 415, 422, 428, 431, 500, 503]
    );
    assert_eq!(description["paths"].as_object().unwrap().len(), 2);

    let key = &description["paths"]["/api/tickets"]["post"]["parameters"][0];
    assert_eq!((&key["name"], &key["required"]), (&json!("Idempotency-Key"), &json!(false)));
    assert_eq!(
        key["schema"],
        json!({ "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]{1,255}$" })
    );
    let page = &description["paths"]["/api/tickets"]["get"]["parameters"];
    let limit = json!({ "type": "integer", "format": "int64", "minimum": 1, "maximum": 100, "default": 20 });
    assert_eq!((&page[0]["name"], &page[0]["schema"]), (&json!("limit"), &limit));
    let after = json!({ "type": "string", "pattern": "^[0-9a-f]{32}$" });
    assert_eq!((&page[1]["name"], &page[1]["schema"]), (&json!("after"), &after));
    let schemas = &description["components"]["schemas"];
    let price = &schemas["Price"];
    assert_eq!(
        (&price["minimum"], &price["maximum"], &price["multipleOf"]),
        (&json!(0), &json!(1_000_000), &json!(0.01))
    );
    assert_eq!(schemas["Title"]["maxLength"], 200);
    assert_eq!(schemas["Page"]["properties"]["tickets"]["maxItems"], MAX_LIMIT);
    assert_eq!(schemas["Problem"]["properties"]["errors"]["maxItems"], MAX_ERRORS);
    assert_eq!(schemas["NewTicket"]["additionalProperties"], false);
    assert_eq!(schemas["ChangedTicket"]["additionalProperties"], false);
}

#[tokio::test]
async fn the_html_page_loads_nothing_from_other_origins() {
    let tickets = Service::without_database().await;
    let page = tickets.get("/docs/").await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.header("content-type").starts_with("text/html"));
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
    assert!(!policy.contains("http"), "{policy}");

    let mut resources = 0;
    for attribute in ["src=\"", "href=\""] {
        for rest in page.body.split(attribute).skip(1) {
            let file = rest.split('"').next().unwrap();
            assert!(!file.contains("//"), "{file}");
            let answer = tickets.get(&format!("/docs/{}", file.trim_start_matches("./"))).await;
            assert_eq!(answer.status, StatusCode::OK, "{file}");
            resources += 1;
        }
    }
    assert!(resources > 3, "{}", page.body);
    let start = tickets.get("/docs/swagger-initializer.js").await.body;
    assert!(start.contains("/openapi.json") && !start.contains("://"), "{start}");
    // The online validator's badge would be an image from another origin.
    assert!(start.contains(r#""validatorUrl": "none""#), "{start}");
}
