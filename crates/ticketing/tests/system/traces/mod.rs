//! One trace from a request through both services, as an OpenTelemetry collector receives it.

mod away;
mod collector;

use std::collections::HashSet;

use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{PATIENCE, POLL_INTERVAL, Service, System, until};
use collector::Collector;

const TICKET: &str = "\
tickets: POST /api/tickets (server)
  tickets: create ticket:created (producer)
    orders: process ticket:created (consumer)
      orders: transaction orders (client)
    tickets: send ticket:created (client)
  tickets: transaction tickets (client)
";

const ORDER: &str = "\
orders: POST /api/orders (server)
  orders: create order:created (producer)
    orders: send order:created (client)
    tickets: process order:created (consumer)
      tickets: create ticket:updated (producer)
        orders: process ticket:updated (consumer)
          orders: transaction orders (client)
        tickets: send ticket:updated (client)
      tickets: transaction tickets (client)
  orders: transaction orders (client)
";

/// A system that sends its traces to this collector.
async fn traced(collector: &Collector) -> System {
    let mut system = System::start().await;
    system.settings.push(("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.clone()));
    system.settings.push(("OTEL_BSP_SCHEDULE_DELAY", "50".to_owned()));
    system
}

fn post_ticket(system: &System, tickets: &Service) -> RequestBuilder {
    let post = system.http.post(format!("{}/api/tickets", tickets.url));
    post.json(&json!({ "title": "Concert", "price": 20 }))
}

/// The trace id in the answer, and the id of the created resource.
async fn created(answer: Response) -> (String, Uuid) {
    assert_eq!(answer.status(), 201);
    let trace = answer.headers()["traceparent"].to_str().unwrap().split('-').nth(1).unwrap();
    let (trace, body) = (trace.to_owned(), answer.json::<Value>().await.unwrap());
    (trace, body["id"].as_str().unwrap().parse().unwrap())
}

/// Waits until orders has the ticket.
async fn arrived(system: &System, ticket: Uuid) {
    until("orders has the ticket", || async { system.known().await.contains_key(&ticket) }).await;
}

/// Orders a ticket as soon as orders knows it. Returns the trace id.
async fn order(system: &System, orders: &Service, ticket: Uuid) -> String {
    arrived(system, ticket).await;
    let post = system.http.post(format!("{}/api/orders", orders.url));
    created(post.json(&json!({ "ticketId": ticket })).send().await.unwrap()).await.0
}

/// Waits until the collector has this tree for a trace.
async fn shows(collector: &Collector, trace: &str, tree: &str) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while collector.tree(trace) != tree {
        let late = tokio::time::Instant::now() > deadline;
        assert!(!late, "the trace {trace} is\n{}", collector.tree(trace));
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_follows_a_request_through_both_services_and_back() {
    let collector = Collector::start().await;
    let system = traced(&collector).await;
    let (tickets, orders) = tokio::join!(system.tickets(), system.orders("orders-1"));

    let (trace, ticket) = created(post_ticket(&system, &tickets).send().await.unwrap()).await;
    shows(&collector, &trace, TICKET).await;
    let of_order = order(&system, &orders, ticket).await;
    shows(&collector, &of_order, ORDER).await;

    let spans = collector.spans();
    let of = |name: &str| {
        let span = spans.iter().find(|span| span.trace == trace && span.name == name);
        span.unwrap().attributes.clone()
    };
    let (create, send) = (of("create ticket:created"), of("send ticket:created"));
    let process = of("process ticket:created");
    for (span, operation) in [(&create, "create"), (&send, "send"), (&process, "process")] {
        let wanted = [
            ("messaging.system", "nats"),
            ("messaging.operation.name", operation),
            ("messaging.operation.type", operation),
            ("messaging.destination.name", "ticket:created"),
            ("messaging.message.id", &create["messaging.message.id"]),
        ];
        for (name, value) in wanted {
            assert_eq!(span.get(name).map(String::as_str), Some(value), "{name}: {span:?}");
        }
    }
    assert_eq!(process["messaging.consumer.group.name"], "orders-service");
    assert_eq!(process["messaging.client.id"], "orders-1");
    let server = of("POST /api/tickets");
    assert_eq!(
        (&*server["http.route"], &*server["http.response.status_code"]),
        ("/api/tickets", "201")
    );
    assert_eq!(of("transaction orders")["db.system.name"], "postgresql");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_of_a_batch_keeps_its_own_trace() {
    const ORDERS: usize = 20;
    let collector = Collector::start().await;
    let system = traced(&collector).await;
    let (mut tickets, orders) = tokio::join!(system.tickets(), system.orders("orders-1"));
    let posts = (0..ORDERS)
        .map(|_| async { created(post_ticket(&system, &tickets).send().await.unwrap()).await });
    let posted: Vec<_> = futures::future::join_all(posts).await;
    for (trace, _) in &posted {
        shows(&collector, trace, TICKET).await;
    }
    // Orders placed while tickets is down arrive as one batch, in one transaction.
    tickets.child.kill().await;
    let mut traces = HashSet::new();
    for (_, ticket) in posted {
        traces.insert(order(&system, &orders, ticket).await);
    }
    assert_eq!(traces.len(), ORDERS, "each request has a trace of its own");
    let _tickets = system.tickets().await;
    for trace in &traces {
        shows(&collector, trace, ORDER).await;
    }
    let spans = collector.spans();
    let together = |name: &str| {
        let named = spans.iter().filter(|span| span.name == name && traces.contains(&span.trace));
        let counts = named.filter_map(|span| span.attributes.get("messaging.batch.message_count"));
        counts.map(|count| count.parse::<usize>().unwrap()).max().unwrap_or(1)
    };
    assert!(together("transaction tickets") > 1, "{spans:#?}");
    assert!(together("send ticket:updated") > 1, "{spans:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_caller_decides_whether_its_trace_is_recorded() {
    let collector = Collector::start().await;
    let system = traced(&collector).await;
    let (tickets, _orders) = tokio::join!(system.tickets(), system.orders("orders-1"));
    let [no, yes] = [1, 2].map(|trace| format!("{trace:032x}"));
    for (trace, flags) in [(&no, "00"), (&yes, "01")] {
        let parent = format!("00-{trace}-00f067aa0ba902b7-{flags}");
        let post = post_ticket(&system, &tickets).header("traceparent", parent);
        let (answered, ticket) = created(post.send().await.unwrap()).await;
        assert_eq!(answered, *trace);
        arrived(&system, ticket).await;
    }
    shows(&collector, &yes, TICKET).await;
    let spans = collector.spans();
    assert!(spans.iter().all(|span| span.trace != no), "{spans:#?}");
    let root = spans.iter().find(|span| span.name == "POST /api/tickets").unwrap();
    assert_eq!(root.parent, "00f067aa0ba902b7");
}
