//! `publish` and `listen`, the tools for experiments.

use embedded::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    command::{Running, ticketing},
    harness::until,
};

/// A NATS server, and a data folder without a running system.
pub(crate) struct Bench {
    pub(crate) nats: embedded::NatsServer,
    folder: TempDir,
}

impl Bench {
    pub(crate) async fn start() -> Self {
        let nats = embedded::NatsServer::builder().start().await.unwrap();
        Self { nats, folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Running {
        let url = self.nats.url();
        ticketing(self.folder.path(), &[arguments, &["--nats-url", &url]].concat())
    }

    /// Starts a listener and waits until it listens.
    pub(crate) async fn listener(&self, arguments: &[&str]) -> Running {
        let mut listener = self.run(&[&["listen"], arguments].concat());
        listener.line_with("Listening to").await;
        listener
    }

    pub(crate) async fn publish(&self, arguments: &[&str]) -> String {
        let (status, said) = self.run(&[&["publish"], arguments].concat()).end().await;
        assert!(status.success(), "{said}");
        said
    }
}

#[tokio::test]
async fn two_listeners_without_a_queue_group_both_get_each_event() {
    let bench = Bench::start().await;
    let (mut one, mut other) = (bench.listener(&[]).await, bench.listener(&[]).await);
    bench.publish(&["--count", "3"]).await;
    for listener in [&mut one, &mut other] {
        for sequence in 1..=3 {
            let line = listener.line_with("Received").await;
            assert!(line.contains(&format!("#{sequence} (delivery 1")), "{line}");
            assert!(line.contains(r#""title":"Concert","price":20.00"#), "{line}");
        }
    }
}

#[tokio::test]
async fn of_two_listeners_in_a_queue_group_only_one_gets_each_event() {
    let bench = Bench::start().await;
    let group = ["--queue-group", "mine"];
    let (mut one, mut other) = (bench.listener(&group).await, bench.listener(&group).await);
    bench.publish(&["--count", "10"]).await;
    let mut seen = Vec::new();
    while seen.len() < 10 {
        let line = tokio::select! {
            line = one.line_with("Received") => line,
            line = other.line_with("Received") => line,
        };
        let sequence = line.split('#').nth(1).unwrap().split(' ').next().unwrap().to_owned();
        assert!(!seen.contains(&sequence), "#{sequence} was received twice: {line}");
        seen.push(sequence);
    }
    let ((_, one), (_, other)) = (one.interrupt().await, other.interrupt().await);
    let received = [one, other].concat().matches("Received").count();
    assert_eq!(received, 10, "no event went to both");
}

#[tokio::test]
async fn an_event_that_one_listener_does_not_ack_goes_to_the_other_after_the_ack_wait() {
    let bench = Bench::start().await;
    let group = ["--queue-group", "mine", "--ack-wait", "1s"];
    let mut lazy = bench.listener(&[&["--no-ack"], &group[..]].concat()).await;
    bench.publish(&[]).await;
    lazy.line_with("#1 (delivery 1").await;
    let mut diligent = bench.listener(&[&["--manual-ack"], &group[..]].concat()).await;
    // The first listener may get the event first; it never acks, so the event goes to the other in the
    // end. Frozen, it gets no more.
    lazy.child.pause();
    let line = diligent.line_with("Received ticket:created #1").await;
    assert!(!line.contains("(delivery 1,"), "{line}");
    diligent.line_with("Acknowledged #1").await;
}

#[tokio::test]
async fn a_listener_killed_before_its_ack_loses_nothing() {
    let bench = Bench::start().await;
    let group = ["--queue-group", "mine", "--ack-wait", "1s", "--manual-ack"];
    let mut slow = bench.listener(&[&["--slow", "60000"], &group[..]].concat()).await;
    bench.publish(&[]).await;
    slow.line_with("#1 (delivery 1").await;
    slow.child.signal(Signal::KILL);
    let mut other = bench.listener(&group).await;
    other.line_with("#1 (delivery 2").await;
    other.line_with("Acknowledged #1").await;
}

#[tokio::test]
async fn a_listener_starts_at_the_position_it_is_given() {
    let bench = Bench::start().await;
    bench.publish(&["--count", "5"]).await;
    for (from, first) in [
        (&["--from", "all"][..], 1),
        (&["--from", "last"], 5),
        (&["--from", "seq", "3"], 3),
        (&["--from", "time", "1h"], 1),
        (&["--from", "new"], 6),
    ] {
        let mut listener = bench.listener(from).await;
        if first == 6 {
            bench.publish(&[]).await;
        }
        let line = listener.line_with("Received").await;
        assert!(line.contains(&format!("#{first} ")), "{from:?}: {line}");
    }
    let (status, said) = bench.run(&["listen", "--from", "seq", "0"]).end().await;
    assert_eq!(status.code(), Some(64), "{said}");
    assert!(said.contains("--from"), "{said}");
}

#[tokio::test]
async fn rs_restarts_a_listener_and_a_publisher() {
    let bench = Bench::start().await;
    let mut publisher = bench.run(&["publish", "--stay"]);
    publisher.line_with("Published ticket:created #1").await;
    let mut listener = bench.listener(&["--from", "all"]).await;
    listener.line_with("#1 ").await;
    publisher.type_line("rs");
    publisher.line_with("Published ticket:created #2").await;
    listener.line_with("#2 ").await;
    listener.type_line("rs");
    // From the start of the stream: it is a new listener.
    listener.line_with("Listening").await;
    listener.line_with("#1 ").await;
    listener.line_with("#2 ").await;
    assert!(publisher.interrupt().await.0.success());
    assert!(listener.interrupt().await.0.success());
}

#[tokio::test]
async fn a_second_listener_with_the_same_client_id_is_rejected_until_the_first_is_dead() {
    let bench = Bench::start().await;
    let first = bench.listener(&["--client-id", "abc"]).await;
    let (status, said) = bench.run(&["listen", "--client-id", "abc"]).end().await;
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("clientID already registered: abc is held by"), "{said}");
    first.child.signal(Signal::KILL);
    first.child.wait().await;
    bench.listener(&["--client-id", "abc"]).await;
}

#[tokio::test]
async fn a_listener_survives_a_restart_of_nats_and_reports_it() {
    let mut bench = Bench::start().await;
    let mut listener = bench.listener(&[]).await;
    bench.publish(&[]).await;
    listener.line_with("#1 ").await;
    bench.nats.kill().await;
    listener.line_with("NATS is unavailable").await;
    bench.nats.restart().await.unwrap();
    listener.line_with("NATS is back").await;
    bench.publish(&[]).await;
    // The first event may be redelivered: its ack may have been lost with the server.
    listener.line_with("Received ticket:created #2 ").await;
}

#[tokio::test]
async fn a_listener_whose_stream_was_recreated_gets_everything_in_it() {
    let mut bench = Bench::start().await;
    let mut listener = bench.listener(&["--client-id", "abc"]).await;
    bench.publish(&["--count", "3"]).await;
    listener.line_with("#3 ").await;
    bench.nats.wipe_and_restart().await.unwrap();
    listener.line_with("NATS is back").await;
    bench.publish(&[]).await;
    listener.line_with("Received ticket:created #1 ").await;
}

#[tokio::test]
async fn a_listener_waits_until_the_lease_of_a_frozen_one_with_its_client_id_expires() {
    let bench = Bench::start().await;
    let frozen = bench.listener(&["--client-id", "abc"]).await;
    frozen.child.pause();
    let mut next = bench.run(&["listen", "--client-id", "abc"]);
    next.line_with("The holder of abc does not answer").await;
    next.line_with("Listening to").await;
    frozen.child.resume();
    let (status, said) = frozen.end().await;
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("clientID already registered: abc is held by"), "{said}");
}

#[tokio::test]
async fn an_invalid_payload_or_an_unreachable_nats_is_reported_with_the_reason() {
    let bench = Bench::start().await;
    for (payload, reason) in [
        ("hello", "not JSON"),
        ("[1]", "not a JSON object"),
        (r#"{"title": "x"}"#, "missing field `price`"),
        (r#"{"title": "x", "price": -1}"#, "price"),
    ] {
        let (status, said) = bench.run(&["publish", payload]).end().await;
        assert_eq!(status.code(), Some(1), "{payload}: {said}");
        assert!(said.contains(reason), "{payload}: {said}");
    }
    let nobody = format!("nats://127.0.0.1:{}", embedded::ports::free().unwrap());
    let gone = ticketing(bench.folder.path(), &["listen", "--nats-url", &nobody]);
    let (status, said) = gone.end().await;
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("NATS does not answer") && said.contains("cargo run"), "{said}");
    let (status, said) = bench.run(&["listen", "--slow", "soon"]).end().await;
    assert_eq!(status.code(), Some(64));
    assert!(said.contains("--slow"), "{said}");
}

#[tokio::test]
async fn status_shows_groups_and_their_members() {
    let bench = Bench::start().await;
    let arguments = ["--queue-group", "mine", "--client-id", "abc", "--no-ack"];
    let mut listener = bench.listener(&arguments).await;
    bench.publish(&[]).await;
    listener.line_with("#1 ").await;
    // Anyone with access to the lease bucket may write anything into it.
    let client = async_nats::connect(bench.nats.url()).await.unwrap();
    client.publish("$KV.client-leases.junk", "no lease".into()).await.unwrap();
    client.flush().await.unwrap();
    let _alone = bench.listener(&["--client-id", "alone"]).await;
    until("the status is correct", || async {
        let (status, said) = bench.run(&["status", "--json"]).end().await;
        assert!(status.success(), "{said}");
        let status: Value = serde_json::from_str(&said).unwrap();
        let stream = &status["streams"][0];
        let names = |list: &str| {
            let list = stream[list].as_array().unwrap().iter();
            list.map(|consumer| consumer["name"].clone()).collect::<Vec<_>>()
        };
        names("queue_groups") == ["mine"]
            && names("listeners") == ["alone"]
            && stream["queue_groups"][0]["unacknowledged"] == 1
            && status["members"][0]["client_id"] == "abc"
            && status["members"][0]["queue_groups"][0] == "mine"
    })
    .await;
    let (_, said) = bench.run(&["status"]).end().await;
    assert!(said.contains("  listener alone: 0 pending"), "{said}");
    assert!(said.contains("  queue group mine: 0 pending, 1 unacknowledged"), "{said}");
}
