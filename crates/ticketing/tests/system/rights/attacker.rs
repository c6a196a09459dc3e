//! An attacker with a stolen service key: it sees one account and must not reach the other.

use std::{collections::BTreeSet, time::Duration};

use async_nats::{Client, Subscriber, jetstream};
use bytes::Bytes;
use embedded::NatsServer;
use futures::StreamExt;
use serde_json::Value;
use tokio::time::timeout;
use uuid::Uuid;

use crate::{harness::PATIENCE, identities::Identities};

/// Everything published in one account, as its operator receives it.
pub(super) struct Account {
    pub(super) operator: Client,
    pub(super) everything: Subscriber,
    pub(super) stream: &'static str,
}

impl Account {
    pub(super) async fn open(
        identities: &Identities,
        nats: &NatsServer,
        stream: &'static str,
    ) -> Self {
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
                // Too long for a redelivery, so only an attack can change the state.
                ack_wait: Duration::from_hours(1),
                ..Default::default()
            };
            made.create_consumer(group).await.unwrap();
        }
        let leases = jetstream::kv::Config { bucket: "client-leases".into(), ..Default::default() };
        jetstream.create_key_value(leases).await.unwrap();
        // One event, which the other group has received and not acknowledged.
        jetstream.publish(subjects[0].clone(), "event".into()).await.unwrap().await.unwrap();
        let next = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.other-service");
        let inbox = operator.new_inbox();
        let mut events = operator.subscribe(inbox.clone()).await.unwrap();
        operator.publish_with_reply(next, inbox, "1".into()).await.unwrap();
        timeout(PATIENCE, events.next()).await.unwrap().unwrap();
        Self { operator, everything, stream }
    }

    /// The subject and the reply of everything published since the last call.
    pub(super) async fn heard(&mut self) -> BTreeSet<(String, String)> {
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

    /// Waits until something is published with a subject or a reply subject that begins like this.
    pub(super) async fn until_heard(&mut self, what: &str, begins: &str) {
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

    pub(super) async fn ask(&self, subject: &str) -> Value {
        let answer = self.operator.request(format!("$JS.API.{subject}"), Bytes::new()).await;
        let mut answer: Value = serde_json::from_slice(&answer.unwrap().payload).unwrap();
        answer.as_object_mut().unwrap().remove("ts");
        answer
    }

    /// The current streams, groups and leases, without the progress of this group, which its members may
    /// change.
    pub(super) async fn state(&self, members_of: &str) -> [Value; 3] {
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

/// A compromised service, with its account.
pub(super) struct Attacker {
    pub(super) client: Client,
    pub(super) name: &'static str,
    /// Events for its own stream.
    pub(super) event: &'static str,
    pub(super) own: Account,
    /// The other account's stream, and the attacker's group there.
    pub(super) stream: &'static str,
    pub(super) group: &'static str,
}

impl Attacker {
    /// Sends a request to the API of the attacker's own account. `None` if it is accepted, else the reason.
    pub(super) async fn api(&self, subject: &str, asked: Value) -> Option<String> {
        let answer = self.client.request(format!("$JS.API.{subject}"), asked.to_string().into());
        let answer: Value = serde_json::from_slice(&answer.await.unwrap().payload).unwrap();
        answer["error"]["description"].as_str().map(ToOwned::to_owned)
    }

    /// Waits until the answer to an imported request arrives in its own account, where it must stay. The
    /// server rejects a reply under `$JS.ACK`.
    pub(super) async fn until_answered(&mut self, what: &str, subject: &str) {
        if !subject.starts_with("$JS.ACK") {
            self.own.until_heard(what, subject).await;
        }
    }

    /// Updates its own stream with this configuration in addition.
    pub(super) async fn update(&self, with: Value) -> Option<String> {
        let own = self.own.stream;
        let mut config = self.own.ask(&format!("STREAM.INFO.{own}")).await["config"].take();
        for key in ["republish", "sources"] {
            config.as_object_mut().unwrap().remove(key);
        }
        config.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
        self.api(&format!("STREAM.UPDATE.{own}"), config).await
    }

    pub(super) async fn publish(&self, subject: &str, reply: &str, payload: &str) {
        let (subject, payload) = (subject.to_owned(), Bytes::from(payload.to_owned()));
        self.client.publish_with_reply(subject, reply.to_owned(), payload).await.unwrap();
        self.client.flush().await.unwrap();
    }

    pub(super) fn imported(&self, verb: &str) -> String {
        format!("JS.{0}.API.CONSUMER.{verb}.{0}.{1}", self.stream, self.group)
    }
}
