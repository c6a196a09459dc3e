//! A stopping service still publishes the events of its last requests.

use embedded::process::Signal;

use crate::harness::{System, until};

#[tokio::test]
async fn a_stopping_service_publishes_the_events_of_its_last_requests() {
    let mut system = System::start().await;
    system.settings.push(("HTTP_DRAIN", "40s".to_owned()));
    system.settings.push(("SHUTDOWN_GRACE", "60s".to_owned()));
    let tickets = system.tickets().await;
    system.post(&tickets, "before the stop").await;
    until("it is published", async || system.stream_messages().await == 1).await;

    tickets.child.signal(Signal::TERM);
    until("it stops", async || {
        let answer = system.http.get(format!("{}/readyz", tickets.url)).send().await;
        answer.unwrap().status() == 503
    })
    .await;
    system.post(&tickets, "during the stop").await;
    until("it is published by the stopping process, the only one", async || {
        assert!(tickets.child.exited().is_none(), "it ended and has not published the event");
        system.stream_messages().await == 2
    })
    .await;
}
