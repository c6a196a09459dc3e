//! The console of `cargo run` shows events and outages within its time limits.

use std::{fs, time::Duration};

use futures::StreamExt;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use testkit::client;
use tokio::time::{Instant, timeout};

use crate::{
    harness::{PATIENCE, until},
    up::Place,
};

/// How soon a part that is down or frozen turns red.
const RED: Duration = Duration::from_secs(3);
/// How soon an event is shown.
const LIVE: Duration = Duration::from_secs(1);
/// The extra delay on a machine that is busy with other tests.
const BUSY: Duration = Duration::from_secs(4);

/// How long an experiment may take until everything is back to normal, on a machine that is busy with other tests.
const OUTCOME: Duration = Duration::from_secs(180);

/// The console of a running system.
struct Console {
    place: Place,
    url: String,
    http: reqwest::Client,
}

impl Console {
    async fn snapshot(&self) -> Value {
        let answer = self.http.get(format!("{}/api/snapshot", self.url)).send().await;
        match answer {
            Ok(answer) => answer.json().await.unwrap_or(Value::Null),
            Err(_) => Value::Null,
        }
    }

    /// Waits for a snapshot that satisfies a condition. Returns it, and how long that took.
    async fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) -> (Value, Duration) {
        self.until_within(PATIENCE, what, holds).await
    }

    async fn until_within(
        &self,
        patience: Duration,
        what: &str,
        holds: impl Fn(&Value) -> bool,
    ) -> (Value, Duration) {
        let begun = Instant::now();
        let mut found = Value::Null;
        while !holds(&found) {
            assert!(begun.elapsed() < patience, "timed out waiting until {what}: {found:#}");
            tokio::time::sleep(Duration::from_millis(25)).await;
            found = self.snapshot().await;
        }
        (found, begun.elapsed())
    }

    /// Acts, and retries while NATS does not answer, or what is to be broken is not there: it may have just been killed.
    /// Returns the answer.
    async fn act(&self, path: &str, body: &Value) -> Value {
        let begun = Instant::now();
        loop {
            let sent = self.http.post(format!("{}/api/act/{path}", self.url)).json(body);
            let answer = sent.send().await.unwrap();
            if answer.status().is_success() {
                return answer.json().await.unwrap();
            }
            let again =
                [409, 502].contains(&answer.status().as_u16()) && begun.elapsed() < PATIENCE;
            assert!(again, "{path} {body}: {}", answer.text().await.unwrap());
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// Checks that a request to break something outside this system is refused. Returns the answer.
    async fn is_refused(&self, body: &Value) -> String {
        let sent = self.http.post(format!("{}/api/act/break", self.url)).json(body).send().await;
        let answer = sent.unwrap();
        assert!([409, 422].contains(&answer.status().as_u16()), "{body}: {}", answer.status());
        answer.text().await.unwrap()
    }

    fn signal(&self, part: &str, signal: Signal) {
        let pid = fs::read_to_string(self.place.path(&format!("{part}.pid"))).unwrap();
        kill_process(Pid::from_raw(pid.trim().parse().unwrap()).unwrap(), signal).unwrap();
    }
}

fn state_of<'a>(snapshot: &'a Value, part: &str) -> &'a str {
    let mut parts = snapshot["parts"].as_array().into_iter().flatten();
    parts.find(|found| found["name"] == part).map_or("", |part| part["state"].as_str().unwrap())
}

fn flow<'a>(snapshot: &'a Value, stream: &str) -> &'a Value {
    let mut flows = snapshot["flows"].as_array().into_iter().flatten();
    flows.find(|flow| flow["stream"] == stream).unwrap_or(&Value::Null)
}

fn all_are_ready(snapshot: &Value) -> bool {
    let parts = snapshot["parts"].as_array().map(Vec::as_slice).unwrap_or_default();
    parts.len() == 4 && parts.iter().all(|part| part["state"] == "ready")
}

#[tokio::test]
async fn the_console_shows_every_step_live_and_reports_frozen_and_missing_parts_in_time() {
    let place = Place::new();
    let (running, stack) = place.up(&["--replicas", "2"]).await;
    let console = Console { url: place.console().await, place, http: client() };
    let (snapshot, _) = console.until("all are ready", all_are_ready).await;
    assert_eq!(flow(&snapshot, "TICKETS")["publisher"]["service"], "tickets");

    let post = format!("{}/api/tickets", stack["services"]["tickets-1"].as_str().unwrap());
    let posted = Instant::now();
    for _ in 0..20 {
        let ticket = console.http.post(&post).json(&json!({"title": "Concert", "price": 20}));
        assert_eq!(ticket.send().await.unwrap().status(), 201);
    }
    let posting = posted.elapsed();
    let shown = |snapshot: &Value| {
        let flow = flow(snapshot, "TICKETS");
        let group = &flow["groups"][0];
        let members = group["members"].as_array().map(Vec::as_slice).unwrap_or_default();
        let applied: f64 = members.iter().filter_map(|member| member["applied"].as_f64()).sum();
        flow["messages"] == 20 && group["acknowledged"] == 20 && applied == 20.0
    };
    let (snapshot, took) = console.until("every step is shown", shown).await;
    assert!(took < LIVE + posting + BUSY, "shown after {took:?}");
    let flow_of_tickets = flow(&snapshot, "TICKETS");
    assert!(flow_of_tickets["publisher"]["rate"].as_f64().unwrap() > 0.0, "{flow_of_tickets:#}");
    let group = &flow_of_tickets["groups"][0];
    assert_eq!((&group["name"], &group["ackWaitSeconds"]), (&json!("orders-service"), &json!(8.0)));
    let members = group["members"].as_array().unwrap();
    let ids: Vec<_> = members.iter().map(|member| member["clientId"].clone()).collect();
    assert_eq!(ids, ["orders-1", "orders-2"]);
    let newest = members.iter().filter_map(|member| member["lastSent"].as_f64());
    assert_eq!(newest.fold(0.0, f64::max), 20.0);

    for part in ["orders-2", "nats"] {
        console.signal(part, Signal::STOP);
        let (snapshot, took) = console.until(part, |found| state_of(found, part) == "frozen").await;
        assert!(took < RED + BUSY, "{part} is shown as frozen after {took:?}");
        if part == "nats" {
            assert_eq!(flow(&snapshot, "TICKETS")["current"], false);
        }
        console.signal(part, Signal::CONT);
        console.until("all are ready again", all_are_ready).await;
    }
    console.signal("tickets-1", Signal::KILL);
    console.until("tickets is down", |found| state_of(found, "tickets-1") == "down").await;
    console.until("all are ready again", all_are_ready).await;
    assert!(running.interrupt().await.0.success());
}

#[tokio::test]
async fn snapshots_are_pushed_and_the_page_loads_nothing_from_other_origins() {
    let place = Place::new();
    let (running, _) = place.up(&["--replicas", "1"]).await;
    let (url, http) = (place.console().await, client());
    let page = http.get(&url).send().await.unwrap();
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    let page = page.text().await.unwrap();
    assert!(!page.contains("http://") && !page.contains("https://"), "it loads from elsewhere");

    let live = http.get(format!("{url}/api/live")).timeout(PATIENCE).send().await.unwrap();
    assert_eq!(live.headers()["content-type"], "text/event-stream");
    let (mut chunks, mut said, begun) = (live.bytes_stream(), String::new(), Instant::now());
    while said.matches("\n\n").count() < 6 {
        let chunk = timeout(PATIENCE, chunks.next()).await.unwrap().unwrap().unwrap();
        said.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    assert!(begun.elapsed() < 6 * LIVE + BUSY, "six snapshots took {:?}", begun.elapsed());
    // An open live stream does not keep the console from stopping.
    let (status, said) = running.interrupt().await;
    assert!(status.success(), "{said}");
}

#[tokio::test]
async fn breaking_things_from_the_page_under_load_loses_nothing_and_the_page_says_so() {
    let place = Place::new();
    let (running, _) = place.up(&["--replicas", "2"]).await;
    let console = Console { url: place.console().await, place, http: client() };
    let (snapshot, _) = console.until("all are ready", all_are_ready).await;
    assert_eq!((&snapshot["rights"], &snapshot["breakable"]), (&json!("open"), &json!(true)));
    let act = async |path: &str, body: Value| console.act(path, &body).await;
    let ticket = act("ticket", json!({ "title": "<b>Concert</b>", "price": 20 })).await;
    assert_eq!(ticket["status"], 201);
    let ticket_id = ticket["body"]["id"].as_str().unwrap();
    let known = |snapshot: &Value| flow(snapshot, "TICKETS")["groups"][0]["acknowledged"] == 1;
    console.until("orders has it", known).await;
    let order = act("order", json!({ "ticketId": ticket_id })).await;
    assert_eq!(order["status"], 201, "{order}");

    act("load", json!({ "rate": 20, "seconds": 8 })).await;
    act("break", json!({ "how": "freeze", "what": "orders-1" })).await;
    act("break", json!({ "how": "kill", "what": "nats" })).await;
    act("break", json!({ "how": "kill", "what": "orders-2" })).await;
    let (_, _) = console
        .until("all but the frozen one are back", |snapshot| {
            state_of(snapshot, "nats") == "ready" && state_of(snapshot, "orders-2") == "ready"
        })
        .await;
    act("break", json!({ "how": "wipe", "what": "TICKETS" })).await;
    act("break", json!({ "how": "thaw", "what": "orders-1" })).await;
    let settled = |snapshot: &Value| {
        let sums = &snapshot["sums"];
        sums["running"] == false && sums["accepted"] != 0 && sums["waiting"] == 0
    };
    let (snapshot, _) = console.until("nothing is missing", settled).await;
    assert_eq!(snapshot["sums"]["accepted"], snapshot["sums"]["applied"]);
    // An event built from a valid ticket does not become a dead letter.
    let ticket = r#"{"title": "By hand", "price": 5}"#;
    let by_hand = json!({ "subject": "ticket:created", "as": "ticket", "payload": ticket });
    assert!(act("publish", by_hand).await["body"]["sequence"].is_number());
    act("break", json!({ "how": "poison", "what": "TICKETS" })).await;
    let dead = |snapshot: &Value| flow(snapshot, "TICKETS")["groups"][0]["deadLetters"] == 1.0;
    console.until("it is a dead letter", dead).await;

    // Only a process of this system, by name, can be signalled.
    for what in ["../nats", "", "console.pid", "stack.json", "1"] {
        console.is_refused(&json!({ "how": "kill", "what": what })).await;
    }
    let said =
        console.is_refused(&json!({ "how": "cut", "what": "orders-1", "from": "nats" })).await;
    assert!(said.contains("--cuttable"), "{said}");
    assert!(running.interrupt().await.0.success());
}

#[tokio::test]
async fn a_process_that_was_cut_off_recovers_without_loss_and_the_page_reports_the_outcome() {
    let place = Place::new();
    let (mut running, _) = place.up(&["--replicas", "2", "--cuttable"]).await;
    let console = Console { url: place.console().await, place, http: client() };
    console.until("all are ready", all_are_ready).await;
    for (what, from, seconds) in
        [("nats", "nats", 9), ("../1", "nats", 9), ("orders-1", "postgres", 61)]
    {
        let body = json!({ "how": "cut", "what": what, "from": from, "seconds": seconds });
        console.is_refused(&body).await;
    }
    // For each cut: the messages that show that the process noticed, and that it is back.
    let cuts = [
        ("orders-2", "nats", "noticed that NATS does not answer", "reached NATS again"),
        ("orders-1", "postgres", "is not ready: database: ", "is ready again"),
    ];
    for (process, from, noticed, back) in cuts {
        let (noticed, back) = (format!("{process} {noticed}"), format!("{process} {back}"));
        console.act("load", &json!({ "rate": 20, "seconds": 25 })).await;
        let cut = json!({ "how": "cut", "what": process, "from": from, "seconds": 20 });
        console.act("break", &cut).await;
        running.line_with(&format!("{process:<10} cut off from {from} for 20 s")).await;
        running.line_with(&format!("{process:<10} no longer cut off from {from}")).await;
        let over = |snapshot: &Value| {
            let outcome = snapshot["experiments"][0]["outcome"].as_str();
            outcome.is_some_and(|outcome| !outcome.is_empty())
        };
        let (snapshot, _) = console.until_within(OUTCOME, "it is over", over).await;
        let experiment = &snapshot["experiments"][0];
        let seen: Vec<_> = experiment["seen"].as_array().unwrap().iter().collect();
        let at = |text: &str| {
            let found = |sight: &&Value| sight["text"].as_str().unwrap().starts_with(text);
            let sight = seen.iter().copied().find(found);
            sight.unwrap_or_else(|| panic!("{text}: {experiment:#}"))["after"].as_f64().unwrap()
        };
        assert!(at(&noticed) < 20.0 && at(&back) > 19.0, "{experiment:#}");
        let outcome = experiment["outcome"].as_str().unwrap();
        assert!(outcome.starts_with("Back to normal after "), "{outcome}");
        assert!(outcome.contains("tickets that the load posted since then"), "{outcome}");
        let sums = &snapshot["sums"];
        assert_eq!((&sums["waiting"], &sums["applied"]), (&json!(0), &sums["accepted"]), "{sums}");
    }
    // The totals count each event, once every part answers.
    let url = format!("{}/api/totals", console.url);
    until("the sums agree", async || {
        let Ok(answer) = console.http.get(&url).send().await else { return false };
        let totals: Value = answer.json().await.unwrap();
        let mut streams = totals["streams"].as_array().into_iter().flatten();
        streams.any(|stream| {
            let applied = &stream["groups"][0]["applied"];
            stream["stream"] == "TICKETS" && stream["committed"] == *applied && *applied != 0
        })
    })
    .await;
    assert!(running.interrupt().await.0.success());
}
