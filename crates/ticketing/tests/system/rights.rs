//! The users of NATS as the manifests have them (infra/k8s/base/nats): each service can do its work,
//! and nothing else.

use std::{collections::HashSet, fs, path::Path};

use async_nats::{Client, ConnectOptions, Event};
use embedded::{NatsServer, nats};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::harness::{PATIENCE, Service, System, until};

/// A server with the users of this file, and the files that it includes.
fn with_users_of(file: &str, folder: &TempDir) -> nats::Builder {
    let k8s = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../infra/k8s");
    for name in ["base/nats/may-tickets.conf", "base/nats/may-orders.conf", file] {
        let from = k8s.join(name);
        fs::copy(&from, folder.path().join(from.file_name().unwrap())).unwrap();
    }
    NatsServer::builder()
        .store_dir(folder.path())
        .settings("include users.conf")
        .env("TICKETS_PASSWORD", "tickets")
        .env("ORDERS_PASSWORD", "orders")
}

#[tokio::test]
async fn each_service_can_do_its_work_with_the_rights_that_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let mut system =
        System::start_with_users(with_users_of("overlays/local/users.conf", &folder)).await;
    let tickets = system.tickets().await;
    let mut first = system.orders("orders-1").await;
    let second = system.orders("orders-2").await;
    until("tickets counts the members of its group", || async {
        system.metric(&tickets, "bus_group_members").await == 1.0
    })
    .await;
    let before = system.post(&tickets, "before").await;
    let mut created = HashSet::from([before]);
    system.reached_once(&created).await;
    let order = reserve(&system, &second, before).await;
    is_held_by(&system, &tickets, before, Some(order)).await;

    // A dead holder of a client id is asked whether it lives, and replaced.
    first.child.kill().await;
    let _first = system.orders("orders-1").await;
    assert_eq!(refused(&system), [""; 0]);

    // Streams, groups and leases are made anew on a server that has lost them.
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

    // An order that nobody pays for expires; without a wait for its time, which is minutes.
    let left = reserve(&system, &second, before).await;
    is_held_by(&system, &tickets, before, Some(left)).await;
    sqlx::query("update orders set expires_at = created_at where id = $1")
        .bind(left)
        .execute(&system.orders_db)
        .await
        .unwrap();
    is_held_by(&system, &tickets, before, None).await;
    system.group_is_quiet().await;
    assert_eq!(refused(&system), [""; 0]);
}

/// Orders a ticket and returns the order's id.
async fn reserve(system: &System, orders: &Service, ticket: Uuid) -> Uuid {
    let order = system.http.post(format!("{}/api/orders", orders.url));
    let answer = order.json(&json!({ "ticketId": ticket })).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::CREATED);
    let order: Value = answer.json().await.unwrap();
    order["id"].as_str().unwrap().parse().unwrap()
}

/// Waits until tickets says that a ticket is held by this order, or by none.
async fn is_held_by(system: &System, tickets: &Service, ticket: Uuid, order: Option<Uuid>) {
    until(&format!("ticket {ticket} is held by {order:?}"), || async {
        let answer = system.http.get(format!("{}/api/tickets/{ticket}", tickets.url));
        let ticket: Value = answer.send().await.unwrap().json().await.unwrap();
        ticket["hold"]["order_id"] == json!(order)
    })
    .await;
}

/// What the server has refused, by its log.
fn refused(system: &System) -> Vec<String> {
    let log = system.nats.log().unwrap();
    let violations = log.lines().filter(|line| line.contains("Violation"));
    violations.map(ToOwned::to_owned).collect()
}

#[tokio::test]
async fn whoever_has_no_name_is_turned_away() {
    let folder = tempfile::tempdir().unwrap();
    let nats = with_users_of("base/nats/users.conf", &folder).start().await.unwrap();
    let anonymous = async_nats::connect(nats.url()).await;
    assert_eq!(anonymous.unwrap_err().kind(), async_nats::ConnectErrorKind::AuthorizationViolation);
    let guess = ConnectOptions::with_user_and_password("orders".into(), "guess".into());
    assert!(guess.connect(nats.url()).await.is_err());
}

/// Every subject of JetStream's API that is about one of these streams and groups, or about all.
/// <https://docs.nats.io/reference/reference-protocols/nats_api_reference>
fn api() -> Vec<String> {
    let mut subjects: Vec<String> = ["INFO", "STREAM.LIST", "STREAM.NAMES", "ACCOUNT.PURGE.x"]
        .map(|rest| format!("$JS.API.{rest}"))
        .to_vec();
    for stream in ["TICKETS", "TICKETS_ROOM", "ORDERS", "ORDERS_ROOM", "KV_client-leases", "OTHER"]
    {
        for verb in [
            "CREATE",
            "UPDATE",
            "INFO",
            "DELETE",
            "PURGE",
            "SNAPSHOT",
            "RESTORE",
            "MSG.GET",
            "MSG.DELETE",
            "PEER.REMOVE",
            "LEADER.STEPDOWN",
        ] {
            subjects.push(format!("$JS.API.STREAM.{verb}.{stream}"));
        }
        subjects.push(format!("$JS.API.CONSUMER.CREATE.{stream}"));
        subjects.push(format!("$JS.API.CONSUMER.LIST.{stream}"));
        subjects.push(format!("$JS.API.CONSUMER.NAMES.{stream}"));
        subjects.push(format!("$JS.API.DIRECT.GET.{stream}"));
        subjects.push(format!("$JS.API.DIRECT.GET.{stream}.subject"));
        for group in ["orders-service", "tickets-service", "other-service"] {
            for verb in ["CREATE", "INFO", "DELETE", "PAUSE", "MSG.NEXT", "UNPIN", "RESET"] {
                subjects.push(format!("$JS.API.CONSUMER.{verb}.{stream}.{group}"));
            }
            subjects.push(format!("$JS.API.CONSUMER.DURABLE.CREATE.{stream}.{group}"));
            subjects.push(format!("$JS.API.CONSUMER.LEADER.STEPDOWN.{stream}.{group}"));
            subjects.push(format!("$JS.ACK.{stream}.{group}.1.1.1.1.0"));
            subjects.push(format!("$JS.ACK.domain.hash.{stream}.{group}.1.1.1.1.0"));
        }
    }
    subjects
}

/// Subjects to publish on that a user has, of all that are tried below.
fn allowed(user: &str) -> Vec<&'static str> {
    let both = [
        "$JS.API.INFO",
        "$JS.API.STREAM.CREATE.TICKETS",
        "$JS.API.STREAM.UPDATE.TICKETS",
        "$JS.API.STREAM.INFO.TICKETS",
        "$JS.API.STREAM.CREATE.ORDERS",
        "$JS.API.STREAM.UPDATE.ORDERS",
        "$JS.API.STREAM.INFO.ORDERS",
        "$JS.API.STREAM.CREATE.KV_client-leases",
        "$JS.API.STREAM.INFO.KV_client-leases",
        "$JS.API.DIRECT.GET.KV_client-leases.subject",
        "$KV.client-leases.x",
        // A consumer of the moment is given a name of chance.
        "$JS.API.CONSUMER.CREATE.KV_client-leases",
        "$JS.API.CONSUMER.DELETE.KV_client-leases.orders-service",
        "$JS.API.CONSUMER.DELETE.KV_client-leases.tickets-service",
        "$JS.API.CONSUMER.DELETE.KV_client-leases.other-service",
    ];
    let own: &[&str] = match user {
        "tickets" => &[
            "ticket:created",
            "ticket:updated",
            "$JS.API.CONSUMER.LIST.TICKETS",
            "$JS.API.DIRECT.GET.TICKETS",
            "$JS.API.STREAM.MSG.DELETE.TICKETS",
            "$JS.API.STREAM.DELETE.TICKETS",
            "$JS.API.STREAM.CREATE.TICKETS_ROOM",
            "$JS.API.STREAM.DELETE.TICKETS_ROOM",
            "$JS.API.CONSUMER.CREATE.ORDERS.tickets-service",
            "$JS.API.CONSUMER.INFO.ORDERS.tickets-service",
            "$JS.API.CONSUMER.DELETE.ORDERS.tickets-service",
            "$JS.API.CONSUMER.PAUSE.ORDERS.tickets-service",
            "$JS.API.CONSUMER.MSG.NEXT.ORDERS.tickets-service",
            "$JS.ACK.ORDERS.tickets-service.1.1.1.1.0",
            "$JS.ACK.domain.hash.ORDERS.tickets-service.1.1.1.1.0",
        ],
        _ => &[
            "order:created",
            "order:completed",
            "order:cancelled",
            "order:expired",
            "$JS.API.CONSUMER.LIST.ORDERS",
            "$JS.API.DIRECT.GET.ORDERS",
            "$JS.API.STREAM.MSG.DELETE.ORDERS",
            "$JS.API.STREAM.DELETE.ORDERS",
            "$JS.API.STREAM.CREATE.ORDERS_ROOM",
            "$JS.API.STREAM.DELETE.ORDERS_ROOM",
            "$JS.API.CONSUMER.CREATE.TICKETS.orders-service",
            "$JS.API.CONSUMER.INFO.TICKETS.orders-service",
            "$JS.API.CONSUMER.DELETE.TICKETS.orders-service",
            "$JS.API.CONSUMER.PAUSE.TICKETS.orders-service",
            "$JS.API.CONSUMER.MSG.NEXT.TICKETS.orders-service",
            "$JS.ACK.TICKETS.orders-service.1.1.1.1.0",
            "$JS.ACK.domain.hash.TICKETS.orders-service.1.1.1.1.0",
        ],
    };
    [&both, own].concat()
}

#[tokio::test]
async fn every_other_subject_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let nats = with_users_of("base/nats/users.conf", &folder).start().await.unwrap();
    for (user, other) in [("tickets", "orders"), ("orders", "tickets")] {
        let (client, mut errors) = connect(&nats, user).await;
        let mut publishing = api();
        publishing.extend(
            [
                "ticket:created",
                "ticket:updated",
                "ticket:other",
                "order:created",
                "order:completed",
                "order:cancelled",
                "order:expired",
                "order:other",
                "x",
                "$SYS.REQ.SERVER.PING",
                "$KV.client-leases.x",
                "$KV.other.x",
                "$O.files.x",
                "_INBOX.x",
                "$JS.EVENT.ADVISORY.x",
            ]
            .map(ToOwned::to_owned),
        );
        publishing.push(format!("_INBOX.{other}.x"));
        let own = allowed(user);
        for subject in &own {
            assert!(publishing.iter().any(|tried| tried == subject), "{subject} is not tried");
        }
        let (allowed, forbidden): (Vec<_>, Vec<_>) =
            publishing.into_iter().partition(|subject| own.contains(&subject.as_str()));
        // The allowed ones first: the server speaks of violations in order, so that the first of a
        // forbidden subject says that none came of these.
        for subject in &allowed {
            client.publish(subject.clone(), "".into()).await.unwrap();
        }
        for subject in &forbidden {
            client.publish(subject.clone(), "".into()).await.unwrap();
            let error = next(&mut errors, user, subject).await;
            let expected = format!("Permissions Violation for Publish to \"{subject}\"");
            assert!(error.contains(&expected), "{user}: {error:?} is not {expected:?}");
        }
        let listening = [
            ">".to_owned(),
            "*".into(),
            "ticket:created".into(),
            "ticket:*".into(),
            "order:>".into(),
            "_INBOX.>".into(),
            "_INBOX.*".into(),
            format!("_INBOX.{other}.>"),
            "$JS.>".into(),
            "$JS.ACK.>".into(),
            "$JS.API.>".into(),
            "$JS.EVENT.ADVISORY.>".into(),
            "$KV.>".into(),
            "$KV.client-leases.>".into(),
            "$SYS.>".into(),
            "$O.>".into(),
        ];
        for subject in listening {
            let _subscription = client.subscribe(subject.clone()).await.unwrap();
            let error = next(&mut errors, user, &subject).await;
            let expected = format!("Permissions Violation for Subscription to \"{subject}\"");
            assert!(error.contains(&expected), "{user}: {error:?} is not {expected:?}");
        }
    }
}

/// A connection of this user, and what the server complains of on it.
async fn connect(nats: &NatsServer, user: &str) -> (Client, mpsc::UnboundedReceiver<String>) {
    let (sender, errors) = mpsc::unbounded_channel();
    let client = ConnectOptions::with_user_and_password(user.to_owned(), user.to_owned())
        .event_callback(move |event| {
            if let Event::ServerError(error) = event {
                let _ = sender.send(error.to_string());
            }
            async {}
        })
        .connect(nats.url())
        .await
        .unwrap();
    (client, errors)
}

async fn next(errors: &mut mpsc::UnboundedReceiver<String>, user: &str, subject: &str) -> String {
    tokio::time::timeout(PATIENCE, errors.recv())
        .await
        .unwrap_or_else(|_| panic!("{user} was not refused {subject}"))
        .unwrap()
}
