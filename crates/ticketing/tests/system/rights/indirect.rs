//! Ways around: a service's key, and every means of NATS by which a message comes to be published by
//! somebody else or in another's name. None of them leads into the other's account.

use std::{collections::BTreeSet, time::Duration};

use async_nats::{Client, HeaderMap, Subscriber, jetstream};
use bytes::Bytes;
use embedded::NatsServer;
use futures::{FutureExt, StreamExt, future::BoxFuture};
use serde_json::{Value, json};
use tokio::time::timeout;
use uuid::Uuid;

use crate::{
    harness::PATIENCE,
    identities::{Identities, k8s},
};

/// Everything that is published in one account, as its operator hears it.
struct Account {
    operator: Client,
    everything: Subscriber,
    stream: &'static str,
}

impl Account {
    async fn open(identities: &Identities, nats: &NatsServer, stream: &'static str) -> Self {
        let operator = identities.operator(nats, stream).await;
        let everything = operator.subscribe(">").await.unwrap();
        let (subjects, group) = match stream {
            "TICKETS" => (vec!["ticket:created", "ticket:updated"], "orders-service"),
            _ => (vec!["order:created"], "tickets-service"),
        };
        let jetstream = jetstream::new(operator.clone());
        let subjects: Vec<String> = subjects.into_iter().map(ToOwned::to_owned).collect();
        let config = jetstream::stream::Config {
            name: stream.to_owned(),
            subjects: subjects.clone(),
            allow_direct: true,
            ..Default::default()
        };
        let made = jetstream.create_stream(config).await.unwrap();
        for group in [group, "other-service"] {
            let group = jetstream::consumer::pull::Config {
                durable_name: Some(group.to_owned()),
                // Nothing changes by the mere time.
                ack_wait: Duration::from_hours(1),
                ..Default::default()
            };
            made.create_consumer(group).await.unwrap();
        }
        let leases = jetstream::kv::Config { bucket: "client-leases".into(), ..Default::default() };
        jetstream.create_key_value(leases).await.unwrap();
        // One event, which the other group has in hand.
        jetstream.publish(subjects[0].clone(), "event".into()).await.unwrap().await.unwrap();
        let next = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.other-service");
        let inbox = operator.new_inbox();
        let mut events = operator.subscribe(inbox.clone()).await.unwrap();
        operator.publish_with_reply(next, inbox, "1".into()).await.unwrap();
        timeout(PATIENCE, events.next()).await.unwrap().unwrap();
        Self { operator, everything, stream }
    }

    /// The subject and the reply of everything published since the last call.
    async fn heard(&mut self) -> BTreeSet<(String, String)> {
        let end = format!("end.{}", Uuid::new_v4().simple());
        self.operator.publish(end.clone(), Bytes::new()).await.unwrap();
        let mut heard = BTreeSet::new();
        loop {
            let next = timeout(PATIENCE, self.everything.next()).await.unwrap().unwrap();
            if next.subject.as_str() == end {
                return heard;
            }
            let reply = next.reply.map(|reply| reply.to_string()).unwrap_or_default();
            heard.insert((next.subject.to_string(), reply));
        }
    }

    /// Waits until something is published under a subject, or with a reply, that begins so.
    async fn until_heard(&mut self, what: &str, begins: &str) {
        timeout(PATIENCE, async {
            let of = |heard: &(String, String)| {
                heard.0.starts_with(begins) || heard.1.starts_with(begins)
            };
            while !self.heard().await.iter().any(of) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .unwrap_or_else(|_| {
            panic!("{what}: nothing came to {begins} in the attacker's own account")
        });
    }

    async fn ask(&self, subject: &str) -> Value {
        let answer = self.operator.request(format!("$JS.API.{subject}"), Bytes::new()).await;
        let mut answer: Value = serde_json::from_slice(&answer.unwrap().payload).unwrap();
        answer.as_object_mut().unwrap().remove("ts");
        answer
    }

    /// The streams, groups and leases as they are. What became of events in this group is its members'
    /// matter.
    async fn state(&self, members_of: &str) -> [Value; 3] {
        let stream = self.stream;
        let mut groups = self.ask(&format!("CONSUMER.LIST.{stream}")).await["consumers"].take();
        for group in groups.as_array_mut().unwrap() {
            if group["name"] == members_of {
                *group = group["config"].take();
            } else {
                group.as_object_mut().unwrap().remove("ts");
            }
        }
        let stream = self.ask(&format!("STREAM.INFO.{stream}")).await;
        [stream, groups, self.ask("STREAM.INFO.KV_client-leases").await]
    }
}

/// A service that has gone over to the enemy, with its account.
struct Attacker {
    client: Client,
    name: &'static str,
    /// Its own events, for its own stream.
    event: &'static str,
    own: Account,
    /// The other's stream, and the group that the attacker has there.
    stream: &'static str,
    group: &'static str,
}

impl Attacker {
    /// What the API of the own account says: `None` when it follows, its reason when not.
    async fn api(&self, subject: &str, asked: Value) -> Option<String> {
        let answer = self.client.request(format!("$JS.API.{subject}"), asked.to_string().into());
        let answer: Value = serde_json::from_slice(&answer.await.unwrap().payload).unwrap();
        answer["error"]["description"].as_str().map(ToOwned::to_owned)
    }

    /// Waits until the answer to an imported request is heard in its own account, where it must stay. The
    /// server refuses a reply under `$JS.ACK`.
    async fn until_answered(&mut self, what: &str, subject: &str) {
        if !subject.starts_with("$JS.ACK") {
            self.own.until_heard(what, subject).await;
        }
    }

    /// Sets its own stream, with this besides.
    async fn update(&self, with: Value) -> Option<String> {
        let own = self.own.stream;
        let mut config = self.own.ask(&format!("STREAM.INFO.{own}")).await["config"].take();
        for key in ["republish", "sources"] {
            config.as_object_mut().unwrap().remove(key);
        }
        config.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
        self.api(&format!("STREAM.UPDATE.{own}"), config).await
    }

    async fn publish(&self, subject: &str, reply: &str, payload: &str) {
        let (subject, payload) = (subject.to_owned(), Bytes::from(payload.to_owned()));
        self.client.publish_with_reply(subject, reply.to_owned(), payload).await.unwrap();
        self.client.flush().await.unwrap();
    }

    fn imported(&self, verb: &str) -> String {
        format!("JS.{0}.API.CONSUMER.{verb}.{0}.{1}", self.stream, self.group)
    }
}

/// A way to have something published under a subject. Returns once that has happened in the attacker's own
/// account, or was refused.
type Way = for<'a> fn(&'a mut Attacker, &'a str) -> BoxFuture<'a, ()>;

const WAYS: [(&str, Way); 10] = [
    ("direct publish", |attacker, subject| {
        async move {
            attacker.client.publish(subject.to_owned(), "forged".into()).await.unwrap();
            attacker.client.flush().await.unwrap();
        }
        .boxed()
    }),
    ("an answer to a question that it has asked itself", |attacker, subject| {
        async move {
            let question = format!("_CLIENT.{}", Uuid::new_v4().simple());
            let mut questions = attacker.client.subscribe(question.clone()).await.unwrap();
            // A reply that the server does not let through needs no answer.
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
            // More than there are, so that an end comes after the events.
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
            // The server delivers where somebody listens to exactly that.
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

/// What would do harm in the account of a stream.
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
async fn no_indirect_way_leads_into_the_others_account() {
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
                // An event of the stream, on its way to the group that may have it, is none.
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

/// The server itself sees to who may import what.
#[tokio::test]
async fn an_account_that_nothing_is_exported_to_can_import_nothing() {
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
