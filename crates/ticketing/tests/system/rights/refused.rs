//! For each user, publishing and subscribing to any subject that its code does not need is refused.

use async_nats::{Client, Event};
use embedded::NatsServer;
use tokio::sync::mpsc;

use crate::{harness::PATIENCE, identities::Identities};

/// Every subject of the JetStream API for these streams and groups, or for all.
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
    // The parts of the other account's API that are or could be imported.
    let imported: Vec<String> = subjects
        .iter()
        .filter_map(|subject| subject.strip_prefix("$JS.API."))
        .flat_map(|rest| ["TICKETS", "ORDERS"].map(|of| format!("JS.{of}.API.{rest}")))
        .collect();
    subjects.extend(imported);
    subjects
}

/// The subjects that a user may publish to, of all that are tried below.
fn allowed(user: &str) -> Vec<String> {
    let (own, other) = match user {
        "tickets" | "orders-provisioner" => ("TICKETS", "ORDERS"),
        _ => ("ORDERS", "TICKETS"),
    };
    let group = if other == "ORDERS" { "tickets-service" } else { "orders-service" };
    if let Some(service) = user.strip_suffix("-provisioner") {
        let group = |verb| format!("$JS.API.CONSUMER.{verb}.{own}.{service}-service");
        let mut subjects = ["INFO", "CREATE", "DELETE", "PAUSE"].map(group).to_vec();
        subjects.push(format!("$JS.API.STREAM.INFO.{own}"));
        return subjects;
    }
    let events: &[&str] = match user {
        "tickets" => &["ticket:created", "ticket:updated"],
        _ => &["order:created", "order:completed", "order:cancelled", "order:expired"],
    };
    let mut subjects: Vec<String> = events.iter().map(ToString::to_string).collect();
    subjects.extend(
        [
            "$JS.API.INFO",
            "$JS.API.STREAM.CREATE.KV_client-leases",
            "$JS.API.STREAM.INFO.KV_client-leases",
            "$JS.API.DIRECT.GET.KV_client-leases.subject",
            "$KV.client-leases.x",
            "_CLIENT.x",
            // An ephemeral consumer gets a random name.
            "$JS.API.CONSUMER.CREATE.KV_client-leases",
            "$JS.API.CONSUMER.DELETE.KV_client-leases.orders-service",
            "$JS.API.CONSUMER.DELETE.KV_client-leases.tickets-service",
            "$JS.API.CONSUMER.DELETE.KV_client-leases.other-service",
        ]
        .map(ToOwned::to_owned),
    );
    subjects.extend([
        format!("_INBOX.{user}.x"),
        format!("$JS.API.STREAM.CREATE.{own}"),
        format!("$JS.API.STREAM.UPDATE.{own}"),
        format!("$JS.API.STREAM.INFO.{own}"),
        format!("$JS.API.CONSUMER.LIST.{own}"),
        format!("$JS.API.DIRECT.GET.{own}"),
        format!("$JS.API.STREAM.MSG.DELETE.{own}"),
        format!("$JS.API.STREAM.DELETE.{own}"),
        format!("$JS.API.STREAM.CREATE.{own}_ROOM"),
        format!("$JS.API.STREAM.DELETE.{own}_ROOM"),
        format!("JS.{other}.API.CONSUMER.INFO.{other}.{group}"),
        format!("JS.{other}.API.CONSUMER.MSG.NEXT.{other}.{group}"),
        format!("$JS.ACK.{other}.{group}.1.1.1.1.0"),
    ]);
    subjects
}

const USERS: [&str; 4] = ["tickets", "orders", "tickets-provisioner", "orders-provisioner"];

/// All subjects that are tried: those of each user, and others.
fn publishable() -> Vec<String> {
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
            "_CLIENT.x",
            "_INBOX.x",
            "_R_.x",
            "$JS.EVENT.ADVISORY.x",
        ]
        .map(ToOwned::to_owned),
    );
    publishing.extend(USERS.map(|user| format!("_INBOX.{user}.x")));
    publishing
}

/// Subjects that this user may not subscribe to.
fn forbidden_to_hear(user: &str) -> Vec<String> {
    let mut listening: Vec<String> = [
        ">",
        "*",
        "ticket:created",
        "ticket:*",
        "order:>",
        "_INBOX.>",
        "_INBOX.*",
        "_R_.>",
        "$JS.>",
        "$JS.ACK.>",
        "$JS.API.>",
        "$JS.EVENT.ADVISORY.>",
        "JS.>",
        "$KV.>",
        "$KV.client-leases.>",
        "$SYS.>",
        "$O.>",
    ]
    .map(ToOwned::to_owned)
    .into();
    let others = USERS.into_iter().filter(|other| *other != user);
    listening.extend(others.map(|other| format!("_INBOX.{other}.>")));
    listening
}

#[tokio::test]
async fn every_subject_that_a_user_does_not_need_is_refused() {
    let identities = Identities::make();
    let nats = identities.server().start().await.unwrap();
    for user in USERS {
        let (client, mut errors) = connect(&identities, &nats, user).await;
        let publishing = publishable();
        let own = allowed(user);
        for subject in &own {
            assert!(publishing.contains(subject), "{subject} is not tried");
        }
        let (allowed, forbidden): (Vec<_>, Vec<_>) =
            publishing.into_iter().partition(|subject| own.contains(subject));
        // The allowed ones first: the server reports violations in order, so if the first report is about a
        // forbidden subject, the allowed ones caused none.
        for subject in &allowed {
            client.publish(subject.clone(), "".into()).await.unwrap();
        }
        for subject in &forbidden {
            client.publish(subject.clone(), "".into()).await.unwrap();
            let error = next(&mut errors, user, subject).await;
            let expected = format!("Permissions Violation for Publish to \"{subject}\"");
            assert!(error.contains(&expected), "{user}: {error:?} is not {expected:?}");
        }
        for subject in forbidden_to_hear(user) {
            let _subscription = client.subscribe(subject.clone()).await.unwrap();
            let error = next(&mut errors, user, &subject).await;
            let expected = format!("Permissions Violation for Subscription to \"{subject}\"");
            assert!(error.contains(&expected), "{user}: {error:?} is not {expected:?}");
        }
    }
}

/// A connection of this user, and the errors that the server sends on it.
pub(super) async fn connect(
    identities: &Identities,
    nats: &NatsServer,
    user: &str,
) -> (Client, mpsc::UnboundedReceiver<String>) {
    let (sender, errors) = mpsc::unbounded_channel();
    let client = identities
        .user(user)
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
