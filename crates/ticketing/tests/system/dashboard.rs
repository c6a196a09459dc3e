//! The running services have every metric that the dashboard and the alerts use.

use std::{collections::BTreeSet, fs};

use regex::Regex;
use serde_json::Value;

use crate::{
    harness::{System, until},
    identities::k8s,
};

/// Metrics that exist only with another configuration, or if the payment provider fails.
const ELSEWHERE: [&str; 2] = ["auth_issuer_reachable", "orders_capture_failures_total"];

/// The metrics in these expressions of PromQL. `up` is Prometheus's own.
fn metrics(expressions: &str) -> BTreeSet<String> {
    let metric = Regex::new(r"\b(?:auth|bus|http|orders|otel|process)_\w+").unwrap();
    let asked = metric.find_iter(expressions).map(|found| found.as_str().to_owned());
    asked.filter(|name| !ELSEWHERE.contains(&name.as_str())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_in_the_dashboard_and_the_alerts_exists() {
    let dashboard = k8s("components/observability/dashboard.json");
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(dashboard).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    let mut asked: BTreeSet<String> =
        targets.flat_map(|target| metrics(target["expr"].as_str().unwrap())).collect();
    assert!(asked.len() > 15, "{asked:?}");
    let rules = fs::read_to_string(k8s("components/prometheus/rules.yaml")).unwrap();
    let rules: Value = serde_saphyr::from_str(&rules).unwrap();
    let groups = rules["spec"]["groups"].as_array().unwrap().iter();
    for rule in groups.flat_map(|group| group["rules"].as_array().unwrap()) {
        asked.append(&mut metrics(rule["expr"].as_str().unwrap()));
    }

    let mut system = System::start().await;
    let nobody = format!("http://127.0.0.1:{}", embedded::ports::free().unwrap());
    system.settings.push(("OTEL_EXPORTER_OTLP_ENDPOINT", nobody));
    system.settings.push(("RESERVATION_TIME", "1s".to_owned()));
    let (tickets, orders) = tokio::join!(system.tickets(), system.orders("orders-1"));
    let ticket = system.post(&tickets, "Concert").await;
    until("orders has the ticket", || async { system.known().await.contains_key(&ticket) }).await;
    let order = system.http.post(format!("{}/api/orders", orders.url));
    let order = order.json(&serde_json::json!({ "ticketId": ticket })).send().await.unwrap();
    assert_eq!(order.status(), 201);
    // This one fails until it is a dead letter.
    let jetstream = system.jetstream("TICKETS").await;
    let unreadable = jetstream.publish("ticket:created", "no event".into()).await.unwrap();
    unreadable.await.unwrap();
    sqlx::raw_sql("alter table tickets add constraint none check (state->>'title' <> 'Opera')")
        .execute(&system.orders_db)
        .await
        .unwrap();
    system.post(&tickets, "Opera").await;

    let mut missing = asked.clone();
    until("every metric is there", async || {
        missing.clone_from(&asked);
        for service in [&tickets, &orders] {
            let answer = system.http.get(format!("{}/metrics", service.url)).send().await.unwrap();
            for line in answer.text().await.unwrap().lines() {
                missing.remove(line.split(['{', ' ']).next().unwrap_or_default());
            }
        }
        if !missing.is_empty() {
            eprintln!("not there yet: {missing:?}");
        }
        missing.is_empty()
    })
    .await;
}
