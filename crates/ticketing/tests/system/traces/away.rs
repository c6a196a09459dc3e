//! If the collector is down or frozen, spans are lost, and nothing else.

use std::{collections::HashSet, time::Duration};

use embedded::{ports, process::Signal};
use tokio::time::timeout;

use super::{TICKET, collector::Collector, created, post_ticket, shows, traced};
use crate::harness::{PATIENCE, System, until};

/// The services' own limit (SHUTDOWN_GRACE), and a margin for a busy machine.
const STOP: Duration = Duration::from_secs(20);

/// Posts tickets and waits until each has taken effect once.
async fn works(system: &System, tickets: &crate::harness::Service, posts: usize) {
    let mut posted = HashSet::new();
    for _ in 0..posts {
        posted.insert(created(post_ticket(system, tickets).send().await.unwrap()).await.1);
    }
    system.reached_once(&posted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_collector_a_service_works_logs_that_once_and_stops_in_time() {
    let mut system = System::start().await;
    let nobody = format!("http://127.0.0.1:{}", ports::free().unwrap());
    system.settings.push(("OTEL_EXPORTER_OTLP_ENDPOINT", nobody));
    system.settings.push(("OTEL_BSP_SCHEDULE_DELAY", "10".to_owned()));
    let mut orders = system.orders("orders-1").await;
    let (command, url) = system.command("tickets", "tickets-1", system.nats.client_port());
    let child = command.piped().spawn().unwrap();
    let mut tickets = crate::harness::Service { child, url };
    until("tickets is ready", || async {
        let ready = system.http.get(format!("{}/readyz", tickets.url)).send().await;
        ready.is_ok_and(|answer| answer.status().is_success())
    })
    .await;
    works(&system, &tickets, 20).await;
    until("several batches of spans have failed", || async {
        system.metric(&tickets, "otel_spans_total").await > 20.0
    })
    .await;
    assert!(tickets.child.stop(Signal::TERM, STOP).await.success());
    assert!(orders.child.stop(Signal::TERM, STOP).await.success());
    let mut said = 0;
    while let Some(line) = timeout(PATIENCE, tickets.child.line()).await.unwrap() {
        said += usize::from(line.contains("the trace collector does not accept spans"));
    }
    assert_eq!(said, 1, "logged once per outage, not once per batch");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_collector_delays_nothing_and_spans_wait_in_a_bounded_queue() {
    const QUEUE: usize = 64;
    const BATCH: usize = 16;
    let collector = Collector::start().await;
    let mut system = traced(&collector).await;
    system.settings.push(("OTEL_BSP_MAX_QUEUE_SIZE", QUEUE.to_string()));
    system.settings.push(("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", BATCH.to_string()));
    let (mut tickets, mut orders) = tokio::join!(system.tickets(), system.orders("orders-1"));
    collector.freeze(true);
    works(&system, &tickets, 100).await;
    assert!(
        orders.child.stop(Signal::TERM, STOP).await.success(),
        "it must not wait for its spans to be sent"
    );

    collector.freeze(false);
    let _orders = system.orders("orders-2").await;
    // The queue is in order, so everything ahead of this one has been sent.
    let newest = async {
        loop {
            let post = post_ticket(&system, &tickets).send().await.unwrap();
            let (trace, _) = created(post).await;
            if timeout(Duration::from_secs(5), shows(&collector, &trace, TICKET)).await.is_ok() {
                return trace;
            }
        }
    };
    let newest = timeout(PATIENCE, newest).await.expect("no spans arrive after the freeze");
    let kept = collector.spans();
    let waited = kept.iter().filter(|span| span.service == "tickets" && span.trace != newest);
    // Those in the queue, those in transit, and those of posts before the newest.
    assert!(waited.clone().count() <= QUEUE + 4 * BATCH, "{}", waited.count());
    assert!(tickets.child.stop(Signal::TERM, STOP).await.success());
}
