//! NATS as configured by the manifests (infra/k8s/base/nats), with an account for each service: each can do
//! its work, and none can reach what belongs to another.

mod attacker;
mod indirect;
mod refused;

use std::{collections::HashSet, fs, os::unix::fs::PermissionsExt};

use async_nats::{ConnectOptions, jetstream};
use embedded::NatsServer;
use reqwest::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    command::{service_with, ticketing},
    harness::{Service, System, until},
    identities::Identities,
};

#[tokio::test]
async fn each_service_works_with_the_rights_of_its_user() {
    let mut system = System::start_in_accounts(Identities::make()).await;
    // Whichever process starts first waits for the others.
    let _provisioners = (system.provisioner("tickets").await, system.provisioner("orders").await);
    let tickets = system.tickets().await;
    let mut first = system.orders("orders-1").await;
    let second = system.orders("orders-2").await;
    for (service, members) in [(&tickets, 1.0), (&second, 2.0)] {
        until("a service counts the members of its group", || async {
            system.metric(service, "bus_group_members").await == members
        })
        .await;
    }
    let before = system.post(&tickets, "before").await;
    let mut created = HashSet::from([before]);
    system.reached_once(&created).await;
    let order = reserve(&system, &second, before).await;
    is_held_by(&system, &tickets, before, Some(order)).await;

    // A duplicate is rejected; a dead holder of a client id is asked whether it is alive, and replaced.
    let double = system.spawn("orders", "orders-2", system.nats.client_port());
    assert_eq!(double.child.wait().await.code(), Some(1));
    first.child.kill().await;
    let _first = system.orders("orders-1").await;
    assert_eq!(refused(&system), [""; 0]);

    // A deleted group is recreated and gets the events published meanwhile.
    delete_group(&system, "TICKETS", "orders-service").await;
    created.insert(system.post(&tickets, "while the group was away").await);
    system.reached_once(&created).await;
    delete_group(&system, "ORDERS", "tickets-service").await;

    // Streams, groups and leases are recreated on a server that has lost them.
    system.nats.wipe_and_restart().await.unwrap();
    let after = system.post(&tickets, "after").await;
    created.insert(after);
    system.reached_once(&created).await;
    let paid = reserve(&system, &second, after).await;
    is_held_by(&system, &tickets, after, Some(paid)).await;
    let (http, orders) = (&system.http, format!("{}/api/orders", second.url));
    let payment = http.post(format!("{orders}/{paid}/payment"));
    let payment = payment.json(&json!({ "token": "tok_visa" })).send().await.unwrap();
    assert_eq!(payment.status(), StatusCode::OK);
    let cancelled = http.delete(format!("{orders}/{order}")).send().await.unwrap();
    assert_eq!(cancelled.status(), StatusCode::OK);
    is_held_by(&system, &tickets, before, None).await;

    // An unpaid order expires; its deadline is moved so that the test need not wait for minutes.
    let left = reserve(&system, &second, before).await;
    is_held_by(&system, &tickets, before, Some(left)).await;
    sqlx::query("update orders set expires_at = created_at where id = $1")
        .bind(left)
        .execute(&system.orders_db)
        .await
        .unwrap();
    is_held_by(&system, &tickets, before, None).await;
    system.everything_is_quiet().await;
    // The relay has refilled both streams, and the inbox has skipped what had taken effect.
    for (stream, messages) in [("TICKETS", created.len() as u64), ("ORDERS", 1)] {
        let jetstream = system.jetstream(stream).await;
        let state = jetstream.get_stream(stream).await.unwrap().cached_info().state.clone();
        assert!(state.messages >= messages, "{stream} holds {} messages", state.messages);
    }
    assert_eq!(refused(&system), [""; 0]);
}

#[tokio::test]
async fn moving_to_one_account_per_service_loses_and_repeats_nothing() {
    let identities = Identities::make();
    let before = NatsServer::builder().store_dir(identities.store());
    let mut system = System::start_on(before).await;
    let tickets = system.tickets().await;
    let mut orders = system.orders("orders-1").await;
    let read = system.post(&tickets, "read").await;
    system.reached_once(&[read].into()).await;
    let order = reserve(&system, &orders, read).await;
    is_held_by(&system, &tickets, read, Some(order)).await;
    system.everything_is_quiet().await;
    orders.child.kill().await;
    let unread = system.post(&tickets, "in the old stream").await;
    until("it is published", || async { system.unpublished().await == 0 }).await;
    system.nats.stop().await;
    let unpublished = system.post(&tickets, "in the log").await;
    drop(tickets);

    system.move_to_accounts(identities).await;
    let tickets = system.tickets().await;
    let _provisioners = (system.provisioner("tickets").await, system.provisioner("orders").await);
    let orders = system.orders("orders-1").await;
    let after = system.post(&tickets, "after").await;
    system.reached_once(&[read, unread, unpublished, after].into()).await;
    group_is_there(&system, "ORDERS", "tickets-service").await;
    system.everything_is_quiet().await;
    system.each_effect_happened_once().await;
    is_held_by(&system, &tickets, read, Some(order)).await;
    let next = reserve(&system, &orders, after).await;
    is_held_by(&system, &tickets, after, Some(next)).await;
}

#[tokio::test]
async fn a_private_key_is_written_once_readable_by_its_owner_only_and_never_printed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("seed");
    let path = file.display().to_string();
    let (status, public) = ticketing(folder.path(), &["nkey", "--seed-file", &path]).end().await;
    assert!(status.success() && public.trim().starts_with('U'), "{public}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let seed = fs::read_to_string(&file).unwrap();
    let (_, again) = ticketing(folder.path(), &["nkey", "--seed-file", &path]).end().await;
    assert_eq!(again, public);
    assert_eq!(fs::read_to_string(&file).unwrap(), seed);

    // An invalid seed is neither used nor shown.
    let junk = folder.path().join("junk");
    fs::write(&junk, "a secret in the wrong place").unwrap();
    let junk = junk.display().to_string();
    let (status, said) = ticketing(folder.path(), &["nkey", "--seed-file", &junk]).end().await;
    assert!(!status.success() && !said.contains("secret in"), "{said}");
    for (file, code) in [(junk.as_str(), 64), ("not-there", 64), (path.as_str(), 0)] {
        for process in ["tickets", "orders", "tickets provision", "orders provision", "status"] {
            // The valid seed is accepted, so the process would run: it only prints its help.
            let help = if code == 0 { " --help" } else { "" };
            let words = format!("{process} --nats-user somebody --nats-seed-file {file}{help}");
            let settings = [("NATS_SEED_FILE", file), ("AUTH", "off")];
            let (exit, said) = service_with(&words, &settings).await;
            assert_eq!(exit, Some(code), "{process} {file}: {said}");
            assert!(said.contains("--nats-seed-file"), "{process} {file}: {said}");
            assert!(!said.contains("secret in") && !said.contains(seed.trim()), "{said}");
        }
    }
}

/// Deletes a queue group with the operator's key.
async fn delete_group(system: &System, stream: &str, group: &str) {
    let jetstream = system.jetstream(stream).await;
    let stream: jetstream::stream::Stream = jetstream.get_stream(stream).await.unwrap();
    stream.delete_consumer(group).await.unwrap();
    group_is_there(system, &stream.cached_info().config.name, group).await;
}

/// Waits until a queue group's consumer exists.
async fn group_is_there(system: &System, stream: &str, group: &str) {
    let jetstream = system.jetstream(stream).await;
    until(&format!("{group} is there"), || async {
        let stream = jetstream.get_stream(stream).await;
        let Ok(stream) = stream else { return false };
        stream.consumer_info(group).await.is_ok()
    })
    .await;
}

/// Orders a ticket and returns the order's id.
async fn reserve(system: &System, orders: &Service, ticket: Uuid) -> Uuid {
    let order = system.http.post(format!("{}/api/orders", orders.url));
    let answer = order.json(&json!({ "ticketId": ticket })).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::CREATED);
    let order: Value = answer.json().await.unwrap();
    order["id"].as_str().unwrap().parse().unwrap()
}

/// Waits until tickets shows that this order, or none, holds a ticket.
async fn is_held_by(system: &System, tickets: &Service, ticket: Uuid, order: Option<Uuid>) {
    until(&format!("ticket {ticket} is held by {order:?}"), || async {
        let answer = system.http.get(format!("{}/api/tickets/{ticket}", tickets.url));
        let ticket: Value = answer.send().await.unwrap().json().await.unwrap();
        ticket["hold"]["orderId"] == json!(order)
    })
    .await;
}

/// The permission violations in the server's log.
fn refused(system: &System) -> Vec<String> {
    let log = system.nats.log().unwrap();
    let violations = log.lines().filter(|line| line.contains("Violation"));
    violations.map(ToOwned::to_owned).collect()
}

#[tokio::test]
async fn clients_without_a_known_key_are_rejected() {
    let identities = Identities::make();
    let nats = identities.server().start().await.unwrap();
    let anonymous = async_nats::connect(nats.url()).await;
    assert_eq!(anonymous.unwrap_err().kind(), async_nats::ConnectErrorKind::AuthorizationViolation);
    let guess = ConnectOptions::with_user_and_password("orders".into(), "orders".into());
    assert!(guess.connect(nats.url()).await.is_err());
    // A well-formed key that the server does not know.
    let other = Identities::make();
    assert!(other.user("orders").connect(nats.url()).await.is_err());
    assert!(identities.user("orders").connect(nats.url()).await.is_ok());
}
