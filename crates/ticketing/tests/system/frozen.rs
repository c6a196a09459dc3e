//! Frozen parts are reported: by `status` in time, by the panel, and by one line when an outage begins and one
//! when it ends.

use std::{collections::BTreeSet, fs, time::Duration};

use async_nats::{ConnectOptions, jetstream};
use embedded::process::{Child, Command, Signal};
use futures::TryStreamExt;
use rustix::process::{Pid, kill_process};
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    command::Running,
    harness::{PATIENCE, System, until},
    up::Place,
};

/// The promise.
const STATUS: Duration = Duration::from_secs(3);
/// A busy machine may need longer to start the process: one of so many runs must keep the promise.
const RUNS: usize = 10;
/// How long an outage lasts here: long enough for everything to notice, and to retry many times.
const OUTAGE: Duration = Duration::from_secs(20);

fn signal(place: &Place, part: &str, signal: Signal) {
    let pid = fs::read_to_string(place.path(&format!("{part}.pid"))).unwrap();
    kill_process(Pid::from_raw(pid.trim().parse().unwrap()).unwrap(), signal).unwrap();
}

/// The output of `status --json`, and whether everything answered.
async fn status(place: &Place) -> (bool, Value) {
    let mut took = Vec::with_capacity(RUNS);
    let (ended, said) = loop {
        assert!(took.len() < RUNS, "it took {took:?}");
        let asked = Instant::now();
        let answer = place.run_tool(&["status", "--json"]).end().await;
        took.push(asked.elapsed());
        if asked.elapsed() < STATUS {
            break answer;
        }
    };
    // The error is one line among the other output.
    let json: Vec<_> = said.lines().filter(|line| !line.starts_with("error: ")).collect();
    (ended.success(), serde_json::from_str(&json.concat()).unwrap())
}

fn state<'a>(status: &'a Value, part: &str) -> &'a Value {
    let parts = status["parts"].as_array().unwrap();
    &parts.iter().find(|at| at["name"] == part).unwrap_or_else(|| panic!("{part}: {status}"))["state"]
}

#[tokio::test]
async fn status_names_a_frozen_part_in_time_and_one_line_reports_its_start_and_one_its_end() {
    let place = Place::new();
    let (mut running, _) = place.up(&["--replicas", "2"]).await;
    let parts = ["nats", "postgres", "orders-1", "orders-2", "tickets-1", "console"];
    until("everything is ready", || async {
        let (complete, status) = status(&place).await;
        let is_there = |part| status["parts"].to_string().contains(part);
        complete && parts.iter().all(|part| is_there(part) && state(&status, part) == "ready")
    })
    .await;
    for part in ["orders-1", "console", "nats", "postgres"] {
        signal(&place, part, Signal::STOP);
        running.line_with(&format!("{part:<10} frozen: it does not answer")).await;
        let (complete, known) = status(&place).await;
        assert_eq!(state(&known, part), "frozen", "{known}");
        assert_eq!(state(&known, "orders-2"), "ready", "{known}");
        let unknown = known["unknown"].to_string();
        match part {
            "nats" => assert!(!complete && unknown.contains("NATS at nats://"), "{known}"),
            "postgres" => {
                assert!(!complete && unknown.contains("the database orders"), "{known}");
                assert_eq!(known["members"].as_array().unwrap().len(), 3, "{known}");
            }
            // A frozen replica does not make the report incomplete.
            _ => assert!(complete && known["databases"]["orders"]["outbox"] == 0, "{known}"),
        }
        signal(&place, part, Signal::CONT);
        running.line_with(&format!("{part:<10} ready again, after")).await;
        until("everything is ready", || async {
            let (complete, status) = status(&place).await;
            complete && parts.iter().all(|part| state(&status, part) == "ready")
        })
        .await;
    }
    let (ended, said) = running.interrupt().await;
    assert!(ended.success(), "{said}");
    for part in ["orders-1", "console", "nats", "postgres"] {
        // Once each. If the machine stalls for seconds, that is an outage too, and is reported as well.
        let count = |line: &str| said.matches(&format!("{part:<10} {line}")).count();
        let (begins, ends) = (count("frozen: "), count("ready again"));
        assert!(begins == ends && (1..=2).contains(&begins), "{part}: {said}");
    }
    // The frozen parts lost their connections, and report that.
    let frozen = |line: &&str| !line.contains("orders-1") && !line.contains("console");
    let warnings = said.lines().filter(|line| line.contains("WARN")).filter(frozen);
    assert_eq!(warnings.collect::<Vec<_>>(), [""; 0], "{said}");
}

#[tokio::test]
async fn each_row_of_the_panel_shows_the_real_state() {
    let place = Place::new();
    // Python is installed for nats-server. The terminal is wide enough for a whole row per line.
    let terminal = r#"
import os, pty, re, sys
def rows(terminal):
    return re.sub(rb" {20,}|\x1b\[2K", b"\n", os.read(terminal, 65536))
sys.exit(pty.spawn(sys.argv[1:], rows) >> 8)"#;
    let size = r#"stty cols 200 rows 50; exec "$0" "$@""#;
    let first_port = place.first_port().to_string();
    let child = Command::new("python3")
        .args(["-c", terminal, "sh", "-c", size, env!("CARGO_BIN_EXE_ticketing")])
        .args(["--replicas", "1", "--first-port", &first_port])
        .current_dir(place.folder())
        .env("TERM", "xterm")
        .with_input()
        .piped()
        .spawn()
        .unwrap();
    let mut running = Running { child, read: Vec::new() };
    running.line_with("Everything is up").await;
    for part in ["orders-1", "console", "nats", "postgres"] {
        row(&mut running, part, "ready").await;
        signal(&place, part, Signal::STOP);
        row(&mut running, part, "frozen").await;
        signal(&place, part, Signal::CONT);
    }
    row(&mut running, "postgres", "ready").await;
    let row = running.line_with("orders-service: lag 0, in hand 0, dead letters 0").await;
    assert!(row.contains("outbox 0"), "{row}");
    // Ctrl-C, as a terminal sends it.
    running.type_line("\u{3}");
    running.line_with("Stopped.").await;
}

/// Waits until the row of a part shows this state.
async fn row(running: &mut Running, part: &str, state: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let line = running.line_with(part).await;
        // Only a row of the panel has a process id.
        if line.contains("process ") && line.contains(state) {
            return;
        }
        assert!(Instant::now() < deadline, "no row shows {part} {state}: {:#?}", running.read);
    }
}

#[tokio::test]
async fn status_leaves_no_consumer_behind() {
    let place = Place::new();
    let (running, stack) = place.up(&["--replicas", "1"]).await;
    let nats: async_nats::ServerAddr = stack["nats_url"].as_str().unwrap().parse().unwrap();
    let (user, password) = (nats.username().unwrap(), nats.password().unwrap());
    let login = ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned());
    let jetstream = jetstream::new(login.connect(nats).await.unwrap());
    let consumers = async || {
        let mut found = BTreeSet::new();
        let names: Vec<String> = jetstream.stream_names().try_collect().await.unwrap();
        for name in names {
            let stream = jetstream.get_stream(&name).await.unwrap();
            let names: Vec<String> = stream.consumer_names().try_collect().await.unwrap();
            found.extend(names.into_iter().map(|consumer| format!("{name} {consumer}")));
        }
        found
    };
    // Services create consumers once they have joined their groups.
    until("both groups exist", || async { consumers().await.len() == 2 }).await;
    let before = consumers().await;
    for _ in 0..3 {
        status(&place).await;
    }
    assert_eq!(consumers().await, before);
    assert!(running.interrupt().await.0.success());
}

/// Whether a process holds a client id.
async fn is_held(system: &System, client_id: &str) -> bool {
    let jetstream = jetstream::new(async_nats::connect(system.nats.url()).await.unwrap());
    let Ok(leases) = jetstream.get_key_value("client-leases").await else { return false };
    leases.get(client_id).await.unwrap().is_some()
}

#[tokio::test]
async fn a_start_that_fails_or_is_interrupted_leaves_no_lease() {
    let system = System::start().await;
    let start = |database: &str| {
        let (command, _) = system.command("tickets", "tickets-1", system.nats.client_port());
        command.env("DATABASE_URL", database).spawn().unwrap()
    };
    let ended = async |child: &mut Child| timeout(PATIENCE, child.wait()).await.unwrap();
    // It holds its lease and waits for an unreachable database.
    let nowhere = format!("postgres://127.0.0.1:{}/tickets", embedded::ports::free().unwrap());
    let mut waiting = start(&nowhere);
    until("it has its lease", || is_held(&system, "tickets-1")).await;
    waiting.signal(Signal::TERM);
    assert!(ended(&mut waiting).await.success());
    assert!(!is_held(&system, "tickets-1").await, "after a signal");
    // The server rejects a database that does not exist.
    let mut refused = start(&system.postgres.url("nothing"));
    assert_eq!(ended(&mut refused).await.code(), Some(1));
    assert!(!is_held(&system, "tickets-1").await, "after a failure");
}

/// Reads the lines of a process until one has this message. Returns the earlier ones that are warnings or report
/// an outage, except for the line that each failed request gets.
async fn told_until(child: &mut Child, last: &str) -> Vec<String> {
    let mut told = Vec::new();
    loop {
        let line = timeout(PATIENCE, child.line()).await.expect(last).expect(last);
        let line: Value = serde_json::from_str(&line).unwrap();
        let message = line["message"].as_str().unwrap().to_owned();
        if message != "request" && (line["level"] != "INFO" || line["notice"] == "outage") {
            told.push(message.clone());
        }
        if message == last {
            return told;
        }
    }
}

#[tokio::test]
async fn a_service_logs_an_outage_once_when_it_begins_and_once_when_it_ends() {
    let mut system = System::start().await;
    system.settings.push(("LOG", "info".to_owned()));
    let start = |kind: &str, name: &str| {
        let (command, url) = system.command(kind, name, system.nats.client_port());
        (command.piped().spawn().unwrap(), url)
    };
    let ((mut tickets, url), (mut orders, _)) =
        (start("tickets", "tickets-1"), start("orders", "orders-1"));
    for service in [&mut tickets, &mut orders] {
        told_until(service, "database available").await;
    }
    let post = async || {
        let ticket = serde_json::json!({ "title": "Concert", "price": 20 });
        let _ = system.http.post(format!("{url}/api/tickets")).json(&ticket).send().await;
    };
    let load = async || {
        let end = Instant::now() + OUTAGE;
        while Instant::now() < end {
            post().await;
            sleep(Duration::from_millis(100)).await;
        }
    };
    post().await;

    system.nats.process().unwrap().pause();
    load().await;
    system.nats.process().unwrap().resume();
    for service in [&mut tickets, &mut orders] {
        let told = told_until(service, "connected to NATS again").await;
        assert_eq!(told, ["disconnected from NATS, reconnecting", "connected to NATS again"]);
    }
    system.postgres.pause();
    load().await;
    system.postgres.resume();
    for service in [&mut tickets, &mut orders] {
        let told = told_until(service, "database available again").await;
        assert_eq!(told, ["database unavailable", "database available again"]);
    }
    // Nothing follows.
    load().await;
    for service in [&mut tickets, &mut orders] {
        service.signal(Signal::TERM);
        assert_eq!(told_until(service, "stopped").await, [""; 0]);
    }
}
