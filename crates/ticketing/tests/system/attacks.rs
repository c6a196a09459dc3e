//! Malicious clients against the services as processes. Attacks on the HTTP server alone are in the tests
//! of `common`.

use std::{collections::BTreeSet, time::Duration};

use embedded::process::Signal;
use reqwest::Method;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::harness::{Service, System};

async fn metrics(system: &System, service: &Service) -> String {
    let answer = system.http.get(format!("{}/metrics", service.url)).send().await.unwrap();
    answer.text().await.unwrap()
}

#[tokio::test]
async fn invented_methods_and_paths_create_no_metric_series_and_every_metric_has_help() {
    let system = System::start().await;
    let (tickets, orders) = (system.tickets().await, system.orders("orders-1").await);
    let ticket = system.post(&tickets, "a").await;
    for n in 0..300 {
        let method = Method::from_bytes(format!("INVENTED{n}").as_bytes()).unwrap();
        for path in [format!("/api/tickets/{ticket}"), format!("/{n}")] {
            let url = format!("{}{path}", tickets.url);
            system.http.request(method.clone(), url).send().await.unwrap();
        }
    }
    let text = metrics(&system, &tickets).await;
    let of_requests = text.lines().filter(|line| line.starts_with("http_request_seconds_count"));
    let series: BTreeSet<&str> = of_requests.map(|line| line.rsplit_once(' ').unwrap().0).collect();
    let expected = [
        r#"http_request_seconds_count{method="POST",route="/api/tickets",status="201"}"#,
        r#"http_request_seconds_count{method="other",route="/api/tickets/{id}",status="405"}"#,
        r#"http_request_seconds_count{method="other",route="none",status="404"}"#,
    ];
    assert_eq!(series, BTreeSet::from(expected));

    for service in [&tickets, &orders] {
        let text = metrics(&system, service).await;
        let named = |what: &str| -> BTreeSet<String> {
            let lines = text.lines().filter_map(|line| line.strip_prefix(what));
            lines.map(|line| line.split(' ').next().unwrap().to_owned()).collect()
        };
        assert!(named("# TYPE ").len() > 5, "{text}");
        assert_eq!(named("# HELP "), named("# TYPE "), "each metric has a help text");
    }
}

#[tokio::test]
async fn a_stopping_process_waits_for_no_client_and_exits_0() {
    let mut system = System::start().await;
    system.settings.push(("SHUTDOWN_GRACE", "6s".to_owned()));
    let mut tickets = system.tickets().await;
    system.post(&tickets, "a").await;
    let address = tickets.url.strip_prefix("http://").unwrap();
    let mut clients = Vec::new();
    for sends in [
        String::new(),
        "POST /api/tickets HTTP/1.1\r\nhost: a\r\n".to_owned(),
        "POST /api/tickets HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
         content-length: 9\r\n\r\n"
            .to_owned(),
        "GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nhost: a\r\n\r\n".repeat(20),
    ] {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(sends.as_bytes()).await.unwrap();
        clients.push(client);
    }
    // It answers the last client, so it has seen all of them.
    let mut last = TcpStream::connect(address).await.unwrap();
    last.write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(last.read(&mut [0; 100]).await.unwrap() > 0);
    assert!(tickets.child.stop(Signal::TERM, Duration::from_secs(10)).await.success());
}
