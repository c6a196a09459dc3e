//! `listen`: what it listens to, what it prints, and that it cleans up.

use async_nats::jetstream;
use embedded::process::Signal;
use futures::TryStreamExt;
use serde_json::Value;

use crate::{harness::until, tools::Bench};

impl Bench {
    async fn consumers(&self, stream: &str) -> Vec<String> {
        let jetstream = jetstream::new(async_nats::connect(self.nats.url()).await.unwrap());
        let stream = jetstream.get_stream(stream).await.unwrap();
        stream.consumer_names().try_collect().await.unwrap()
    }
}

#[tokio::test]
async fn a_listener_that_ends_leaves_no_consumer_behind() {
    let bench = Bench::start().await;
    for signal in [Signal::INT, Signal::TERM] {
        let mut listener = bench.listener(&[]).await;
        let first = bench.consumers("TICKETS").await;
        assert_eq!(first.len(), 1, "{first:?}");
        listener.type_line("rs");
        listener.line_with("Listening to").await;
        let second = bench.consumers("TICKETS").await;
        assert!(second.len() == 1 && second != first, "after rs: {second:?}");
        listener.child.signal(signal);
        let (status, said) = listener.end().await;
        assert!(status.success(), "{said}");
        assert_eq!(bench.consumers("TICKETS").await, [""; 0], "after {signal:?}");
    }
    // A group stays for its other members, and for later.
    let member = bench.listener(&["--queue-group", "mine"]).await;
    assert!(member.interrupt().await.0.success());
    assert_eq!(bench.consumers("TICKETS").await, ["mine"]);
}

#[tokio::test]
async fn the_server_deletes_the_consumer_of_a_killed_listener() {
    let bench = Bench::start().await;
    let listener = bench.listener(&[]).await;
    listener.child.signal(Signal::KILL);
    listener.child.wait().await;
    until("the server has deleted it", || async { bench.consumers("TICKETS").await.is_empty() })
        .await;
}

#[tokio::test]
async fn options_that_an_existing_group_ignores_are_named() {
    let bench = Bench::start().await;
    bench.publish(&["--count", "3"]).await;
    let group = ["--queue-group", "mine"];
    let mut first =
        bench.listener(&[&group[..], &["--from", "all", "--ack-wait", "30s"]].concat()).await;
    first.line_with("#3 ").await;
    let all = ["--from", "all", "--ack-wait", "1s", "--subject", "ticket:created"];
    let mut second = bench.run(&[&["listen"], &group[..], &all].concat());
    let said = [
        second.line_with("--from is ignored").await,
        second.line_with("--ack-wait is ignored").await,
        second.line_with("--subject is ignored").await,
    ];
    assert!(said[0].contains("mine exists and continues after #3"), "{said:?}");
    assert!(said[1].contains("30s"), "{said:?}");
    // Options that equal the group's cause no warning.
    drop(first);
    let (_, said) =
        bench.listener(&[&group[..], &["--ack-wait", "30s"]].concat()).await.interrupt().await;
    assert!(!said.contains("ignored"), "{said}");
}

#[tokio::test]
async fn listen_prints_one_subject_or_any_stream_as_text_or_json() {
    let bench = Bench::start().await;
    let jetstream = jetstream::new(async_nats::connect(bench.nats.url()).await.unwrap());
    let parcels = jetstream::stream::Config {
        name: "PARCELS".to_owned(),
        subjects: vec!["parcel.>".to_owned()],
        ..jetstream::stream::Config::default()
    };
    jetstream.create_stream(parcels).await.unwrap();
    jetstream.publish("parcel.sent", r#"{"number": 7}"#.into()).await.unwrap().await.unwrap();
    jetstream.publish("parcel.lost", "no JSON".into()).await.unwrap().await.unwrap();

    let mut by_name = bench.listener(&["--stream", "PARCELS", "--from", "all"]).await;
    by_name.line_with(r#"Received parcel.sent #1 (delivery 1"#).await;
    by_name.line_with("Received parcel.lost #2 ").await;
    // Finds the stream by its subject.
    let mut by_subject =
        bench.run(&["listen", "--subject", "parcel.lost", "--from", "all", "--json"]);
    by_subject.line_with("Listening to parcel.lost of stream PARCELS").await;
    let line: Value = serde_json::from_str(&by_subject.line_with("parcel.lost\"").await).unwrap();
    assert_eq!(line["event"], "no JSON", "{line}");
    assert_eq!((&line["stream"], &line["sequence"]), (&"PARCELS".into(), &2.into()));

    bench.publish(&[]).await;
    let json = ["listen", "--subject", "ticket:created", "--from", "all", "--json"];
    let mut data = bench.run(&json);
    let line = data.line_with("\"event\"").await;
    assert!(line.contains(r#""price":20.00"#), "to the cent: {line}");
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["event"]["title"], "Concert", "{line}");
    let mut whole = bench.run(&[&json[..], &["--envelope"]].concat());
    let line: Value = serde_json::from_str(&whole.line_with("\"event\"").await).unwrap();
    assert_eq!(line["event"]["type"], "ticket:created", "{line}");
    assert_eq!(line["event"]["data"]["title"], "Concert", "{line}");

    for (arguments, reason) in [
        (&["--stream", "NONE"][..], "no stream \"NONE\"; there are: "),
        (&["--subject", "nobody.knows"], "no stream holds the subject"),
        (&["tickets", "--subject", "order:created"], "stream TICKETS has no subject"),
        (&["tickets", "--stream", "PARCELS"], "cannot be used with"),
    ] {
        let (status, said) = bench.run(&[&["listen"], arguments].concat()).end().await;
        assert!(!status.success() && said.contains(reason), "{arguments:?}: {said}");
    }
}
