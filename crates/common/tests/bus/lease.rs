//! The bucket of leases may contain anything, because everyone with access to it can write
//! anything.

use async_nats::HeaderMap;
use common::bus::{
    ClientId,
    lease::{self, Lease},
};
use embedded::NatsServer;
use serde_json::{Value, json};

use crate::member::{connect, until};

#[tokio::test]
async fn junk_in_the_lease_bucket_is_ignored_and_overwritten() {
    let nats = NatsServer::builder().start().await.unwrap();
    let (bus, shutdown) = connect(&nats.url(), "one").await;
    let _one = Lease::take(&bus, &shutdown, "service", &["group"]).await.unwrap();
    let bucket = bus.jetstream.get_key_value("client-leases").await.unwrap();
    let lease_of_one = bucket.get("one").await.unwrap().unwrap();
    let deep = "[".repeat(100_000);
    let large = vec![b'x'; 900_000];
    let edited = |key: &str, value: Value| {
        let mut lease: Value = serde_json::from_slice(&lease_of_one).unwrap();
        (lease["client_id"], lease[key]) = (json!("eight"), value);
        lease.to_string().into_bytes()
    };
    let cursor = edited("node", json!("\u{1b}[2J"));
    let long = edited("service", json!("x".repeat(100_000)));
    let groups = edited("queue_groups", json!(vec!["group"; 100_000]));
    let junk: [(&str, &[u8]); 12] = [
        ("nine", &large),
        ("eight", &cursor),
        ("eight", &long),
        ("eight", &groups),
        ("two", b"not JSON"),
        ("three", b""),
        ("four", &lease_of_one),
        ("five", br#"{"client_id": "five"}"#),
        ("six", deep.as_bytes()),
        ("no:id", &lease_of_one),
        ("a.key..of nobody", b"\0"),
        ("seven", br#"{"client_id": ">"}"#),
    ];
    let holders = async || {
        let holders = lease::holders(&bus).await.unwrap();
        holders.keys().map(ClientId::to_string).collect::<Vec<_>>()
    };
    for (key, value) in junk {
        // No client library would write some of these keys.
        let subject = format!("$KV.client-leases.{}", key.replace(' ', "-"));
        bus.client.publish(subject, value.to_vec().into()).await.unwrap();
        bus.client.flush().await.unwrap();
        assert_eq!(holders().await, ["one"], "with junk under {key}");
    }
    // Deletion markers with and without a value, and unknown markers.
    for mark in ["DEL", "PURGE", "PUT", "JUNK"] {
        let mut headers = HeaderMap::new();
        headers.insert("KV-Operation", mark);
        let subject = format!("$KV.client-leases.mark-{mark}");
        bus.client.publish_with_headers(subject, headers, "junk".into()).await.unwrap();
    }
    bus.client.flush().await.unwrap();
    assert_eq!(holders().await, ["one"]);

    // Its own key as well.
    let ids =
        ["two", "three", "four", "six", "eight", "nine", "mark-DEL", "mark-PURGE", "mark-JUNK"];
    for id in ids {
        let (bus, shutdown) = connect(&nats.url(), id).await;
        let lease = Lease::take(&bus, &shutdown, "service", &["group"]).await.unwrap();
        tokio::time::timeout(testkit::PATIENCE, lease.held()).await.unwrap();
    }
    let mut all = [ids.as_slice(), &["one"]].concat();
    all.sort_unstable();
    assert_eq!(holders().await, all);
    bus.client.publish("$KV.client-leases.one", "junk".into()).await.unwrap();
    bus.client.flush().await.unwrap();
    until("the holder has written its lease again", || async {
        holders().await.contains(&"one".to_owned())
    })
    .await;
}
