//! The log lines of one request, from first to last.

use embedded::ports;
use serde_json::{Value, json};

use crate::harness::{System, until};

#[tokio::test(flavor = "multi_thread")]
async fn every_log_line_of_a_request_has_its_ids_even_if_the_request_fails() {
    let mut system = System::start().await;
    system.settings.push(("LOG", "info,common=debug".to_owned()));
    every_line_names_its_request(&system).await;
    // The same with tracing on, when the tracer assigns the ids.
    let nobody = format!("http://127.0.0.1:{}", ports::free().unwrap());
    system.settings.push(("OTEL_EXPORTER_OTLP_ENDPOINT", nobody));
    sqlx::raw_sql("alter table elsewhere rename to tickets")
        .execute(&system.tickets_db)
        .await
        .unwrap();
    every_line_names_its_request(&system).await;
}

/// Checks a request answered 201 and one answered 500.
async fn every_line_names_its_request(system: &System) {
    let (command, url) = system.command("tickets", "tickets-1", system.nats.client_port());
    let mut tickets = command.piped().spawn().unwrap();
    until("tickets is ready", || async {
        system.http.get(format!("{url}/readyz")).send().await.is_ok_and(|at| at.status() == 200)
    })
    .await;
    let post = async |id: &str| {
        let post = system.http.post(format!("{url}/api/tickets")).header("x-request-id", id);
        post.json(&json!({ "title": "Concert", "price": 20 })).send().await.unwrap()
    };
    let created = post("good-one").await;
    assert_eq!(created.status(), 201);
    let trace =
        created.headers()["traceparent"].to_str().unwrap().split('-').nth(1).unwrap().to_owned();
    sqlx::raw_sql("alter table tickets rename to elsewhere")
        .execute(&system.tickets_db)
        .await
        .unwrap();
    assert_eq!(post("bad-one").await.status(), 500);

    let mut lines: Vec<Value> = Vec::new();
    let last = |line: &Value| line["request.id"] == "bad-one" && line["message"] == "request";
    while !lines.last().is_some_and(last) {
        let line = tokio::time::timeout(crate::harness::PATIENCE, tickets.line()).await;
        lines.push(serde_json::from_str(&line.unwrap().unwrap()).unwrap());
    }
    let of = |id: &str| lines.iter().filter(|at| at["request.id"] == id).collect::<Vec<_>>();
    let (good, bad) = (of("good-one"), of("bad-one"));
    let said = |lines: &[&Value], message: &str| {
        lines.iter().find(|at| at["message"] == message).copied().cloned()
    };
    assert!(said(&good, "ticket created").is_some(), "{lines:#?}");
    let end = said(&good, "request").unwrap();
    assert_eq!((&end["trace.id"], &end["http.response.status_code"]), (&trace.into(), &201.into()));
    assert!(good.iter().all(|line| line["trace.id"] == end["trace.id"]), "{good:#?}");
    for line in good.iter().chain(&bad) {
        assert_eq!(line["client.id"], "tickets-1", "{line}");
        let of_a_trace = |name: &String| name.starts_with("otel.") || name.starts_with("db.");
        assert!(!line.as_object().unwrap().keys().any(of_a_trace), "{line}");
    }
    let failure = said(&bad, "request failed").unwrap();
    assert_eq!(
        (&failure["level"], &failure["url.path"]),
        (&"ERROR".into(), &"/api/tickets".into())
    );
    assert!(failure["trace.id"].is_string(), "{failure}");
    // At the default level, info, a failed request gets this line, whatever else logged the reason.
    let last = said(&bad, "request").unwrap();
    assert_eq!((&last["http.response.status_code"], &last["level"]), (&500.into(), &"WARN".into()));
    assert_eq!(end["level"], "DEBUG");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_log_line_of_an_event_that_fails_has_its_ids_at_any_level() {
    let mut system = System::start().await;
    system.settings.push(("LOG", "warn".to_owned()));
    let (command, url) = system.command("orders", "orders-1", system.nats.client_port());
    let mut orders = command.piped().spawn().unwrap();
    until("orders is ready", || async {
        system.http.get(format!("{url}/readyz")).send().await.is_ok_and(|at| at.status() == 200)
    })
    .await;
    sqlx::raw_sql("alter table tickets add constraint fault check (price < 0)")
        .execute(&system.orders_db)
        .await
        .unwrap();
    let tickets = system.tickets().await;
    system.post(&tickets, "Concert").await;
    let event: String = sqlx::query_scalar("select id::text from bus.log")
        .fetch_one(&system.tickets_db)
        .await
        .unwrap();

    let mut said: Vec<Value> = Vec::new();
    while !said.last().is_some_and(|line| line["message"] == "event became a dead letter") {
        let line = tokio::time::timeout(crate::harness::PATIENCE, orders.line()).await;
        let line: Value = serde_json::from_str(&line.unwrap().unwrap()).unwrap();
        said.extend(Some(line).filter(|line| line["message"].to_string().contains("event")));
    }
    assert!(said.iter().any(|line| line["message"] == "event failed, retrying"), "{said:#?}");
    for line in &said {
        let ids = ["event.id", "event.type", "client.id", "queue.group"].map(|name| &line[name]);
        assert_eq!(ids, [&event, "ticket:created", "orders-1", "orders-service"], "{line}");
        let trace = line["trace.id"].as_str().unwrap_or_default();
        assert!(trace.len() == 32 && line["trace.id"] == said[0]["trace.id"], "{line}");
    }
}
