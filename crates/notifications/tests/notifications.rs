//! The service as a process of its own, on real servers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use async_nats::jetstream::{self, stream::Config};
use common::{
    bus::envelope,
    events::{
        asyncapi,
        ticket::{TICKETS, Ticket, TicketCreated},
    },
};
use embedded::{NatsServer, Postgres, ports, process::Command};
use serde_json::Value;
use testkit::{client, until};
use time::OffsetDateTime;
use uuid::Uuid;

#[test]
fn every_example_of_an_event_can_be_read_and_no_field_lacks_one() {
    assert_eq!(asyncapi::faults(notifications::DOCUMENTED), [""; 0]);
}

#[tokio::test]
async fn a_ticket_that_is_published_twice_is_notified_once() {
    let (nats, postgres) = (NatsServer::builder().start().await, Postgres::shared().await);
    let (nats, postgres) = (nats.unwrap(), postgres.unwrap());
    let database = postgres.create_database("notifications").await.unwrap();
    let jetstream = jetstream::new(async_nats::connect(nats.url()).await.unwrap());
    let subjects = TICKETS.subjects.iter().map(ToString::to_string).collect();
    let stream = Config { name: TICKETS.name.to_owned(), subjects, ..Config::default() };
    jetstream.create_stream(stream).await.unwrap();

    let address = format!("127.0.0.1:{}", ports::free().unwrap());
    let _service = Command::new(env!("CARGO_BIN_EXE_notifications"))
        .env("POD_NAME", "notifications-1")
        .env("HTTP_ADDRESS", &address)
        .env("NATS_URL", nats.url())
        .env("DATABASE_URL", database)
        .env("LOG", "warn")
        .spawn()
        .unwrap();

    let (twice, last) = (Uuid::now_v7(), Uuid::now_v7());
    for (id, title) in [(twice, "Concert"), (twice, "Concert"), (last, "Opera")] {
        let ticket = TicketCreated(Ticket { title: title.to_owned(), ..Ticket::example() });
        let event = envelope::encode(id, OffsetDateTime::now_utc(), &ticket).unwrap();
        jetstream.publish("ticket:created", event.into()).await.unwrap().await.unwrap();
    }
    until("the last ticket's notification is there", async || {
        let notifications = get(&address, "/api/notifications").await;
        let of_last = |sent: &Value| sent["id"] == last.to_string();
        notifications.as_array().is_some_and(|sent| sent.iter().any(of_last))
    })
    .await;
    let sent = get(&address, "/api/notifications").await;
    assert_eq!((&sent[1]["id"], sent.as_array().unwrap().len()), (&twice.to_string().into(), 2));
    until("both notifications are published", async || {
        let stream = jetstream.get_stream("NOTIFICATIONS").await;
        stream.is_ok_and(|stream| stream.cached_info().state.messages == 2)
    })
    .await;
    let description = get(&address, "/openapi.json").await;
    assert!(description["paths"]["/api/notifications"]["get"].is_object(), "{description}");
}

/// The JSON at a path; null while the service does not answer.
async fn get(address: &str, path: &str) -> Value {
    let Ok(answer) = client().get(format!("http://{address}{path}")).send().await else {
        return Value::Null;
    };
    answer.json().await.unwrap_or_default()
}
