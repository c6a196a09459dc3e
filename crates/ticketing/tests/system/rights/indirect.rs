//! Indirect attacks: with one service's key, uses every NATS feature that publishes a message on someone
//! else's behalf. None of them reaches the other account.

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture};
use serde_json::json;
use tokio::time::timeout;
use uuid::Uuid;

use super::attacker::{Account, Attacker};
use crate::{
    harness::PATIENCE,
    identities::{Identities, k8s},
};

/// A way to have something published under a subject. Returns once that has happened in the attacker's own
/// account, or was rejected.
type Way = for<'a> fn(&'a mut Attacker, &'a str) -> BoxFuture<'a, ()>;

const WAYS: [(&str, Way); 10] = [
    ("direct publish", |attacker, subject| {
        async move {
            attacker.client.publish(subject.to_owned(), "forged".into()).await.unwrap();
            attacker.client.flush().await.unwrap();
        }
        .boxed()
    }),
    ("a reply to its own request", |attacker, subject| {
        async move {
            let question = format!("_CLIENT.{}", Uuid::new_v4().simple());
            let mut questions = attacker.client.subscribe(question.clone()).await.unwrap();
            // A reply that the server blocks needs no answer.
            attacker.publish(&question, subject, "are you alive?").await;
            if let Ok(Some(asked)) = timeout(Duration::from_millis(100), questions.next()).await {
                attacker.client.publish(asked.reply.unwrap(), "forged".into()).await.unwrap();
                attacker.client.flush().await.unwrap();
            }
        }
        .boxed()
    }),
    ("the answer to an imported request", |attacker, subject| {
        async move {
            let asked = attacker.imported("INFO");
            attacker.publish(&asked, subject, "").await;
            attacker.until_answered("INFO", subject).await;
        }
        .boxed()
    }),
    ("the end of a pull", |attacker, subject| {
        async move {
            let asked = attacker.imported("MSG.NEXT");
            // More than there are, so that the events are followed by an end.
            attacker.publish(&asked, subject, r#"{"batch": 9, "no_wait": true}"#).await;
            attacker.until_answered("MSG.NEXT", subject).await;
        }
        .boxed()
    }),
    ("an ack that asks for more", |attacker, subject| {
        async move {
            let ack = format!("$JS.ACK.{}.{}.1.1.1.1.0", attacker.stream, attacker.group);
            attacker.publish(&ack, subject, r#"+NXT {"batch": 9, "no_wait": true}"#).await;
            attacker.until_answered("+NXT", subject).await;
        }
        .boxed()
    }),
    ("republish", |attacker, subject| {
        async move {
            let republish = json!({ "republish": { "src": attacker.event, "dest": subject } });
            if attacker.update(republish).await.is_none() {
                attacker.client.publish(attacker.event, "forged".into()).await.unwrap();
                attacker.own.until_heard("republish", subject).await;
            }
            assert_eq!(attacker.update(json!({})).await, None);
        }
        .boxed()
    }),
    ("republish into what is imported, or could be", |attacker, subject| {
        async move {
            let Some(rest) = subject.strip_prefix("$JS.API.") else { return };
            let dest = format!("JS.{}.API.{rest}", attacker.stream);
            let republish = json!({ "republish": { "src": attacker.event, "dest": dest } });
            if attacker.update(republish).await.is_none() {
                attacker.client.publish(attacker.event, Bytes::new()).await.unwrap();
                attacker.own.until_heard("republish", &dest).await;
            }
            assert_eq!(attacker.update(json!({})).await, None);
        }
        .boxed()
    }),
    ("a source, whose events it renames", |attacker, subject| {
        async move {
            let api = format!("JS.{}.API", attacker.stream);
            let source = json!({
                "name": attacker.stream,
                "external": { "api": api, "deliver": subject },
                "subject_transforms": [{ "src": ">", "dest": subject }],
            });
            if attacker.update(json!({ "sources": [source] })).await.is_none() {
                let asked = format!("{api}.CONSUMER.CREATE.{}", attacker.stream);
                attacker.own.until_heard("source", &asked).await;
            }
            assert_eq!(attacker.update(json!({})).await, None);
        }
        .boxed()
    }),
    ("a mirror", |attacker, subject| {
        async move {
            let (own, api) = (attacker.own.stream, format!("JS.{}.API", attacker.stream));
            let made_again = attacker.own.ask(&format!("STREAM.INFO.{own}")).await["config"].take();
            attacker.own.ask(&format!("STREAM.DELETE.{own}")).await;
            let mirror = json!({
                "name": own,
                "storage": "file",
                "mirror": {
                    "name": attacker.stream,
                    "external": { "api": api, "deliver": subject },
                },
            });
            if attacker.api(&format!("STREAM.CREATE.{own}"), mirror).await.is_none() {
                let asked = format!("{api}.CONSUMER.CREATE.{}", attacker.stream);
                attacker.own.until_heard("mirror", &asked).await;
                attacker.own.ask(&format!("STREAM.DELETE.{own}")).await;
            }
            assert_eq!(attacker.api(&format!("STREAM.CREATE.{own}"), made_again).await, None);
        }
        .boxed()
    }),
    ("a consumer's deliver subject", |attacker, subject| {
        async move {
            let consumer = json!({
                "stream_name": "KV_client-leases",
                "config": {
                    "deliver_subject": subject, "deliver_policy": "all", "ack_policy": "explicit",
                    "inactive_threshold": 1_000_000_000_u64,
                },
            });
            // The server delivers if something subscribes to exactly this subject.
            let operator = &attacker.own.operator;
            let mut delivered = operator.subscribe(subject.to_owned()).await.unwrap();
            operator.flush().await.unwrap();
            if attacker.api("CONSUMER.CREATE.KV_client-leases", consumer).await.is_none() {
                let lease = format!("$KV.client-leases.{}", attacker.name);
                let mut headers = HeaderMap::new();
                headers.insert("x-forged", "yes");
                let client = &attacker.client;
                client.publish_with_headers(lease, headers, "forged".into()).await.unwrap();
                let came = timeout(PATIENCE, delivered.next()).await;
                assert!(came.is_ok_and(|came| came.is_some()), "nothing is delivered to {subject}");
            }
        }
        .boxed()
    }),
];

/// Subjects that would do harm in the account of a stream.
fn harmful(stream: &str) -> Vec<String> {
    let (service, events, group) = match stream {
        "TICKETS" => ("tickets", ["ticket:created", "ticket:updated"], "orders-service"),
        _ => ("orders", ["order:created", "order:completed"], "tickets-service"),
    };
    let mut subjects: Vec<String> = events.map(ToOwned::to_owned).into();
    for verb in ["DELETE", "PURGE", "UPDATE", "CREATE", "MSG.DELETE", "SNAPSHOT"] {
        subjects.push(format!("$JS.API.STREAM.{verb}.{stream}"));
    }
    for verb in ["CREATE", "DELETE", "PAUSE", "RESET"] {
        subjects.push(format!("$JS.API.CONSUMER.{verb}.{stream}.{group}"));
    }
    for verb in ["INFO", "MSG.NEXT"] {
        subjects.push(format!("$JS.API.CONSUMER.{verb}.{stream}.other-service"));
    }
    subjects.push(format!("$JS.ACK.{stream}.other-service.1.1.1.1.0"));
    subjects.push(format!("$KV.client-leases.{service}-0"));
    subjects.push(format!("_CLIENT.{service}-0.question"));
    subjects.push(format!("_INBOX.{service}.answer"));
    subjects.push(format!("_INBOX.{service}-operator.answer"));
    subjects
}

#[tokio::test]
async fn no_indirect_route_reaches_the_other_account() {
    for (name, own, event, stream, group) in [
        ("orders", "ORDERS", "order:created", "TICKETS", "orders-service"),
        ("tickets", "TICKETS", "ticket:created", "ORDERS", "tickets-service"),
    ] {
        let identities = Identities::make();
        let nats = identities.server().start().await.unwrap();
        let own = Account::open(&identities, &nats, own).await;
        let mut other = Account::open(&identities, &nats, stream).await;
        let client = identities.user(name).connect(nats.url()).await.unwrap();
        let mut attacker = Attacker { client, name, event, own, stream, group };
        let before = other.state(group).await;
        for subject in harmful(stream) {
            for (way, go) in WAYS {
                other.heard().await;
                go(&mut attacker, &subject).await;
                let heard = other.heard().await;
                // An event that goes to the group that may receive it is no harm.
                let to_group = format!("$JS.ACK.{stream}.{group}.");
                let forged = |(heard, reply): &(String, String)| {
                    (*heard == subject && !reply.starts_with(&to_group))
                        || reply.starts_with("$JS.ACK.KV_client-leases.")
                };
                assert!(
                    !heard.iter().any(forged),
                    "{name} has {subject} published in the account of {stream} by {way}: {heard:?}"
                );
            }
        }
        assert_eq!(other.state(group).await, before, "{name} has changed the account of {stream}");
    }
}

/// The server itself enforces who may import what.
#[tokio::test]
async fn an_account_can_import_only_what_is_exported_to_it() {
    let identities = Identities::make();
    let users = std::fs::read_to_string(k8s("base/nats/users.conf")).unwrap();
    for subject in [
        "$JS.API.CONSUMER.MSG.NEXT.TICKETS.orders-service",
        "$JS.API.CONSUMER.INFO.TICKETS.orders-service",
        "$JS.ACK.TICKETS.orders-service.>",
        "$JS.API.STREAM.INFO.TICKETS",
        "ticket:created",
    ] {
        let import = format!("{{ service: {{ account: TICKETS, subject: \"{subject}\" }} }}");
        let third = format!("accounts {{\n  THIRD {{ jetstream: enabled, imports: [ {import} ] }}");
        let settings = users.replacen("accounts {", &third, 1);
        let refused = identities.server().settings(settings).start().await;
        let said =
            format!("{:#}", refused.err().unwrap_or_else(|| panic!("{subject} is imported")));
        assert!(said.contains("import"), "{subject}: {said}");
    }
}
