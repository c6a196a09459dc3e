//! Events that arrive in any order and repeatedly leave orders with the newest state, applied once.

use async_nats::jetstream::{self, message::PublishMessage};
use common::{
    bus::envelope,
    events::{
        Event,
        ticket::{Ticket, TicketCreated, TicketUpdated},
    },
};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::harness::{System, until};

fn ticket(id: Uuid, version: i32) -> Ticket {
    Ticket { id, title: format!("version {version}"), version, ..Ticket::example() }
}

/// An event's subject and envelope.
fn encoded(id: Uuid, ticket: Ticket) -> (&'static str, String) {
    let now = OffsetDateTime::now_utc();
    if ticket.version == 1 {
        let created = envelope::encode(id, now, &TicketCreated(ticket)).unwrap();
        return (TicketCreated::SUBJECT, created);
    }
    (TicketUpdated::SUBJECT, envelope::encode(id, now, &TicketUpdated(ticket)).unwrap())
}

/// Publishes without a `Nats-Msg-Id`, so that the stream does not detect duplicates.
async fn publish(system: &System, (subject, envelope): (&'static str, String)) {
    let jetstream = jetstream::new(async_nats::connect(system.nats.url()).await.unwrap());
    let message = PublishMessage::build().payload(envelope.into());
    jetstream.send_publish(subject, message).await.unwrap().await.unwrap();
}

async fn versions(system: &System, tickets: &[Uuid]) -> Vec<(i32, String)> {
    sqlx::query_as("select version, state->>'title' from tickets where id = any($1)")
        .bind(tickets)
        .fetch_all(&system.orders_db)
        .await
        .unwrap()
}

#[tokio::test]
async fn orders_keeps_the_newest_version_in_whatever_order_versions_arrive() {
    let system = System::start().await;
    let _other = system.orders("orders-1").await;
    let replica = system.orders("orders-2").await;
    let orders = [[1, 2, 3], [3, 2, 1], [2, 3, 1], [3, 1, 2], [2, 1, 3], [1, 3, 2]];
    let tickets: Vec<Uuid> = orders.iter().map(|_| Uuid::now_v7()).collect();
    // One after the other through two replicas, each in separate batches.
    for place in 0..3 {
        for (ticket_id, order) in tickets.iter().zip(&orders) {
            publish(&system, encoded(Uuid::now_v7(), ticket(*ticket_id, order[place]))).await;
        }
    }
    system.group_is_quiet().await;
    let newest = vec![(3, "version 3".to_owned()); tickets.len()];
    assert_eq!(versions(&system, &tickets).await, newest);

    // All at once, in one batch of one replica.
    drop(_other);
    replica.child.pause();
    let tickets: Vec<Uuid> = orders.iter().map(|_| Uuid::now_v7()).collect();
    for (ticket_id, order) in tickets.iter().zip(&orders) {
        for version in order {
            publish(&system, encoded(Uuid::now_v7(), ticket(*ticket_id, *version))).await;
        }
    }
    replica.child.resume();
    until("every ticket is there", || async {
        versions(&system, &tickets).await.len() == tickets.len()
    })
    .await;
    system.group_is_quiet().await;
    assert_eq!(versions(&system, &tickets).await, newest);
    system.each_effect_happened_once().await;
}

#[tokio::test]
async fn an_event_that_is_delivered_ten_times_takes_effect_once() {
    let system = System::start().await;
    let (one, _other) = tokio::join!(system.orders("orders-1"), system.orders("orders-2"));
    let (event, ticket_id) = (Uuid::now_v7(), Uuid::now_v7());
    // Identical bytes: different bytes with this id would be a different event.
    let message = encoded(event, ticket(ticket_id, 1));
    for _ in 0..5 {
        publish(&system, message.clone()).await;
    }
    // The rest may also share a batch.
    one.child.pause();
    for _ in 0..5 {
        publish(&system, message.clone()).await;
    }
    one.child.resume();
    system.group_is_quiet().await;
    assert_eq!(system.group().await.delivered.stream_sequence, 10);
    assert_eq!(versions(&system, &[ticket_id]).await, [(1, "version 1".to_owned())]);
    let effects: i64 = sqlx::query_scalar("select count(*) from effects where event_id = $1")
        .bind(event)
        .fetch_one(&system.orders_db)
        .await
        .unwrap();
    assert_eq!(effects, 1);
    let letters: i64 = sqlx::query_scalar("select count(*) from bus.dead_letters")
        .fetch_one(&system.orders_db)
        .await
        .unwrap();
    assert_eq!(letters, 0);
}

#[tokio::test]
async fn orders_lists_its_copies_in_pages_and_rejects_invalid_parameters() {
    let system = System::start().await;
    let orders = system.orders("orders-1").await;
    let tickets: Vec<Uuid> = (0..5).map(|_| Uuid::now_v7()).collect();
    for id in &tickets {
        publish(&system, encoded(Uuid::now_v7(), ticket(*id, 1))).await;
    }
    system.group_is_quiet().await;
    let get = async |path: &str| {
        let answer = system.http.get(format!("{}{path}", orders.url)).send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json::<serde_json::Value>().await.unwrap())
    };
    let (mut seen, mut path) = (Vec::new(), "/api/tickets?limit=2".to_owned());
    loop {
        let (status, page) = get(&path).await;
        assert_eq!(status, 200);
        for known in page["tickets"].as_array().unwrap() {
            assert_eq!(known["processedBy"], "orders-1");
            seen.push(known["id"].as_str().unwrap().parse::<Uuid>().unwrap());
        }
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/tickets?limit=2&after={next}");
    }
    seen.reverse();
    assert_eq!(seen, tickets, "each once, newest first");
    assert_eq!(get(&format!("/api/tickets/{}", tickets[0])).await.0, 200);
    assert_eq!(get(&format!("/api/tickets/{}", Uuid::now_v7())).await.0, 404);
    for (bad, refused) in [
        ("/api/tickets/7", 400),
        ("/api/tickets?limit=0", 422),
        ("/api/tickets?after=x", 422),
        ("/api/tickets?x=1", 422),
    ] {
        let (status, problem) = get(bad).await;
        assert_eq!(status, refused, "{bad}: {problem}");
        assert!(!problem["detail"].as_str().unwrap().is_empty());
    }
}
