//! `/streaming/...` shows the state of JetStream and the leases.

use std::time::Duration;

use async_nats::jetstream::{consumer::pull, stream};
use futures::StreamExt;
use serde_json::{Value, json};

use crate::world::{Member, World};

/// Creates a stream with two subjects and a group that filters one of them. Of the group's three events, one
/// is acknowledged, one unacknowledged, and one not delivered yet.
async fn three_events(member: &Member) {
    let jetstream = &member.bus.jetstream;
    let stream = jetstream.create_stream(stream::Config {
        name: "TICKETS".to_owned(),
        subjects: vec!["ticket:created".to_owned(), "ticket:updated".to_owned()],
        ..stream::Config::default()
    });
    let stream = stream.await.unwrap();
    let group = stream.create_consumer(pull::Config {
        durable_name: Some("orders-service".to_owned()),
        filter_subjects: vec!["ticket:created".to_owned()],
        ack_wait: Duration::from_secs(300),
        max_ack_pending: 20,
        ..pull::Config::default()
    });
    let group = group.await.unwrap();
    for subject in ["ticket:updated", "ticket:created", "ticket:created", "ticket:created"] {
        jetstream.publish(subject, "an event".into()).await.unwrap().await.unwrap();
    }
    let mut messages = group.fetch().max_messages(2).messages().await.unwrap();
    messages.next().await.unwrap().unwrap().double_ack().await.unwrap();
    messages.next().await.unwrap().unwrap();
}

fn ids(of: &Value) -> Vec<&str> {
    of.as_array().unwrap().iter().map(|one| one["client_id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn channels_are_shown_with_their_members_as_nats_streaming_did() {
    let world = World::start().await;
    let (one, _two) = tokio::join!(
        world.member("orders-1", "orders-service"),
        world.member("orders-2", "orders-service")
    );
    three_events(&one).await;

    let (_, names) = world.get("/streaming/channelsz").await;
    assert_eq!(names["names"], json!(["ticket:created", "ticket:updated"]));
    assert_eq!(
        (&names["count"], &names["total"], &names["limit"]),
        (&json!(2), &json!(2), &json!(1024))
    );
    assert!(names["server_id"].as_str().is_some_and(|id| id.starts_with('N')), "{names}");
    let (_, second) = world.get("/streaming/channelsz?offset=1&limit=1").await;
    assert_eq!(second["names"], json!(["ticket:updated"]));

    let (_, channels) = world.get("/streaming/channelsz?subs=1").await;
    let created = &channels["channels"][0];
    let (_, alone) = world.get("/streaming/channelsz?channel=ticket:created&subs=1").await;
    assert_eq!(created, &alone);
    assert_eq!(created["stream"], "TICKETS");
    assert_eq!(
        (&created["msgs"], &created["first_seq"], &created["last_seq"]),
        (&json!(3), &json!(2), &json!(4))
    );
    assert_eq!(ids(&created["subscriptions"]), ["orders-1", "orders-2"]);
    let subscription = &created["subscriptions"][1];
    let expected = json!({
        "client_id": "orders-2", "ack_inbox": "$JS.ACK.TICKETS.orders-service",
        "durable_name": "orders-service", "queue_name": "orders-service", "is_durable": true,
        "is_offline": false, "max_inflight": 20, "ack_wait": 300, "last_sent": 3,
        "pending_count": 1, "is_stalled": false,
    });
    assert_eq!(subscription, &expected);
    let (_, updated) = world.get("/streaming/channelsz?channel=ticket:updated&subs=1").await;
    assert_eq!((&updated["msgs"], &updated["subscriptions"]), (&json!(1), &json!([])));
    assert_eq!(world.get("/streaming/channelsz?channel=nobody").await.0, 404);
    // The console leaves no consumer behind.
    let bucket = one.bus.jetstream.get_stream("KV_client-leases").await.unwrap();
    assert_eq!(bucket.cached_info().state.consumer_count, 0);
}

#[tokio::test]
async fn clients_server_and_store_are_shown_as_nats_streaming_did() {
    let world = World::start().await;
    let one = world.member("orders-1", "orders-service").await;
    three_events(&one).await;

    let (_, clients) = world.get("/streaming/clientsz").await;
    assert_eq!((&clients["total"], &clients["clients"][0]["id"]), (&json!(1), &json!("orders-1")));
    assert!(clients["clients"][0].get("subscriptions").is_none());
    let (_, client) = world.get("/streaming/clientsz?client=orders-1&subs=1").await;
    assert_eq!((&client["node"], &client["service"]), (&json!("node-a"), &json!("orders")));
    assert_eq!(ids(&client["subscriptions"]["ticket:created"]), ["orders-1"]);
    assert!(client["subscriptions"].get("ticket:updated").is_none());
    assert_eq!(world.get("/streaming/clientsz?client=nobody").await.0, 404);

    let (_, server) = world.get("/streaming/serverz").await;
    assert_eq!(
        (&server["clients"], &server["subscriptions"], &server["channels"]),
        (&json!(1), &json!(1), &json!(2))
    );
    assert_eq!((&server["total_msgs"], &server["state"]), (&json!(4), &json!("STANDALONE")));
    assert!(server["version"].as_str().is_some_and(|version| version.starts_with('2')), "{server}");
    assert!(server["in_msgs"].as_i64().unwrap() > 0 && server["go"].is_string());

    let (_, store) = world.get("/streaming/storez").await;
    assert_eq!((&store["type"], &store["total_msgs"]), (&json!("FILE"), &json!(4)));
    assert_eq!(store["limits"]["channels"]["TICKETS"]["max_msgs"], 0);
}

#[tokio::test]
async fn a_group_without_members_is_offline_and_a_frozen_nats_is_reported_in_time() {
    let world = World::start().await;
    let one = world.member("orders-1", "another-group").await;
    three_events(&one).await;
    let (_, channel) = world.get("/streaming/channelsz?channel=ticket:created&subs=1").await;
    assert_eq!(
        (&channel["subscriptions"][0]["client_id"], &channel["subscriptions"][0]["is_offline"]),
        (&json!(""), &json!(true))
    );

    world.nats.process().unwrap().pause();
    let patient =
        reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().unwrap();
    let begun = tokio::time::Instant::now();
    let answer = patient.get(format!("{}/streaming/channelsz", world.url)).send().await.unwrap();
    let (status, took) = (answer.status(), begun.elapsed());
    world.nats.process().unwrap().resume();
    assert_eq!((status.as_u16(), answer.headers()["retry-after"].to_str().unwrap()), (503, "1"));
    assert!(took < Duration::from_secs(10), "answered after {took:?}");
    world.until("NATS answers again", "/streaming/channelsz", |_| true).await;
}

#[tokio::test]
async fn requests_for_an_unknown_host_name_are_refused() {
    let world = World::start_with(&[("CONSOLE_HOSTS", "console.example.com")]).await;
    for (host, status) in [("evil.example", 421), ("localhost", 200), ("console.example.com", 200)]
    {
        let asked = world.http.get(format!("{}/streaming/serverz", world.url)).header("host", host);
        assert_eq!(asked.send().await.unwrap().status(), status, "{host}");
    }
}
