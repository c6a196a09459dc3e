//! A third service beside tickets and orders, added by its entry in the table: it gets a database and a port,
//! and everything that knows the other two knows it. This file is also the program that it tests.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

#[allow(dead_code, reason = "its own main is of no use here")]
#[path = "../../common/examples/notifications.rs"]
mod notifications;

use std::{env, fs, os::unix::fs::PermissionsExt, path::Path, process::ExitCode};

use common::bus::Listener;
use embedded::{
    ports,
    process::{Child, Command, Signal},
};
use futures::FutureExt;
use serde_json::{Value, json};
use testkit::{PATIENCE, client, until};
use ticketing::services::{Replicas, Service};
use tokio::time::timeout;

/// Set for the program, and for what it starts.
const IS_PROGRAM: &str = "WITH_A_THIRD_SERVICE";
/// The name of the test, for those who run some of all tests.
const NAME: &str = "a_third_service_is_started_shown_and_listened_to";

/// Its entry in the table.
fn third() -> Service {
    Service {
        name: "notifications",
        streams: &[&notifications::NOTIFICATIONS],
        queue_group: notifications::Tell::QUEUE_GROUP,
        tables: &["notifications"],
        replicas: Replicas::One,
        ready_once_joined: false,
        main: |arguments| notifications::main_with(arguments).boxed_local(),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    if env::var_os(IS_PROGRAM).is_some() {
        return ticketing::main_with(vec![third()]).await;
    }
    let mut wanted = env::args().skip(1).filter(|word| !word.starts_with('-')).peekable();
    let all = wanted.peek().is_none();
    if all || wanted.any(|word| NAME.contains(&word)) {
        a_third_service_is_started_shown_and_listened_to().await;
        println!("test {NAME} ... ok");
    }
    ExitCode::SUCCESS
}

fn program(folder: &Path, arguments: &[&str]) -> Child {
    let program = Command::new(env::current_exe().unwrap()).args(arguments).env(IS_PROGRAM, "yes");
    program.current_dir(folder).with_input().piped().spawn().unwrap()
}

async fn line_with(child: &mut Child, text: &str) -> String {
    let mut read = Vec::new();
    loop {
        let line = timeout(PATIENCE, child.line()).await;
        let line = line.ok().flatten().unwrap_or_else(|| panic!("no {text:?}: {read:#?}"));
        if line.contains(text) {
            return line;
        }
        read.push(line);
    }
}

async fn a_third_service_is_started_shown_and_listened_to() {
    // A folder that Postgres's user can enter as well.
    let open = fs::Permissions::from_mode(0o755);
    let folder = tempfile::Builder::new().permissions(open).tempdir().unwrap();
    let folder = folder.path();
    let first_port = ports::consecutive(20).unwrap().to_string();
    let mut up = program(folder, &["--replicas", "1", "--first-port", &first_port]);
    line_with(&mut up, "Everything is up").await;
    let stack = fs::read(folder.join(".ticketing/stack.json")).unwrap();
    let stack: Value = serde_json::from_slice(&stack).unwrap();
    let url = |process: &str, path: &str| {
        format!("{}{path}", stack["services"][process].as_str().unwrap())
    };

    let ticket = json!({ "title": "Concert", "price": 20 });
    let posted = client().post(url("tickets-1", "/api/tickets")).json(&ticket).send().await;
    assert_eq!(posted.unwrap().status(), 201);
    until("the third service has seen the ticket", || async {
        let told = client().get(url("notifications-1", "/api/notifications")).send().await;
        let Ok(told) = told else { return false };
        told.json::<Vec<String>>().await.is_ok_and(|told| told == ["New: Concert for 20.00"])
    })
    .await;

    let mut status = program(folder, &["status"]);
    let row = line_with(&mut status, "notifications-1").await;
    assert!(row.contains("ready"), "{row}");
    let group = line_with(&mut status, "queue group notifications-service").await;
    assert!(group.contains("0 pending"), "{group}");
    line_with(&mut status, "Database notifications: 1 notifications").await;
    let mut listener = program(folder, &["listen", "--stream", "NOTIFICATIONS", "--from", "all"]);
    let event = line_with(&mut listener, "Received notification:sent").await;
    assert!(event.contains("New: Concert"), "{event}");
    let letters = program(folder, &["dead-letters", "list", "--service", "notifications"]);
    assert!(timeout(PATIENCE, letters.wait()).await.unwrap().success());

    listener.signal(Signal::INT);
    up.signal(Signal::INT);
    line_with(&mut up, "Stopped.").await;
}
