//! The whole system with a third service, as `cargo run` starts it, and its tools.

use std::{fs, os::unix::fs::PermissionsExt};

use embedded::{
    ports,
    process::{Child, Signal},
};
use serde_json::{Value, json};
use testkit::{PATIENCE, client, until};
use tokio::time::timeout;

use crate::program;

pub(crate) async fn a_third_service_is_started_shown_and_listened_to() {
    // A folder that Postgres's user can enter too.
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
    until("a ticket is posted", || async {
        let post = client().post(url("tickets-1", "/api/tickets")).json(&ticket);
        let posted = post.header("idempotency-key", "once").send().await;
        posted.is_ok_and(|answer| answer.status() == 201)
    })
    .await;
    until("the third service has seen the ticket", || async {
        let told = client().get(url("notifications-1", "/api/notifications")).send().await;
        let Ok(told) = told else { return false };
        let told = told.json::<Value>().await.unwrap_or_default();
        told[0]["text"] == "New: Concert for 20.00" && told[1].is_null()
    })
    .await;

    // On a busy machine, `status` may leave out what it could not learn within 3 s.
    until("status shows it all", || async {
        let status = lines(&mut program(folder, &["status"])).await;
        let shows =
            |parts: &[&str]| status.iter().any(|line| parts.iter().all(|part| line.contains(part)));
        shows(&["notifications-1", "ready"])
            && shows(&["queue group notifications-service", "0 pending"])
            && shows(&["Database notifications: 1 notifications"])
    })
    .await;
    let mut listener = program(folder, &["listen", "--stream", "NOTIFICATIONS", "--from", "all"]);
    let event = line_with(&mut listener, "Received notification:sent").await;
    assert!(event.contains("New: Concert"), "{event}");
    let letters = program(folder, &["dead-letters", "list", "--service", "notifications"]);
    assert!(timeout(PATIENCE, letters.wait()).await.unwrap().success());

    // The documents of every service and of the command contain its events.
    let mut documents = Vec::new();
    for process in ["notifications-1", "tickets-1", "orders-1"] {
        until("a service shows its events", async || {
            let answer = client().get(url(process, "/asyncapi.json")).send().await;
            let Ok(answer) = answer else { return false };
            documents.push(answer.json::<Value>().await.unwrap_or_default());
            true
        })
        .await;
    }
    let json = lines(&mut program(folder, &["asyncapi"])).await.concat();
    documents.push(serde_json::from_str(&json).unwrap());
    for document in documents {
        let address = &document["channels"]["notification-sent"]["address"];
        assert_eq!(address, "notification:sent", "{document:#}");
        let operations = &document["operations"];
        assert_eq!(operations["publish-notification-sent"]["action"], "send");
        let receives = "notifications-service-receives-ticket-created";
        assert_eq!(operations[receives]["action"], "receive");
    }

    listener.signal(Signal::INT);
    up.signal(Signal::INT);
    line_with(&mut up, "Stopped.").await;
}

/// Everything that a program prints.
async fn lines(child: &mut Child) -> Vec<String> {
    let mut lines = Vec::new();
    while let Some(line) = timeout(PATIENCE, child.line()).await.unwrap() {
        lines.push(line);
    }
    lines
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
