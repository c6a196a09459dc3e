//! A member of a queue group, or a listener in none, as STAN showed a subscription.

use async_nats::jetstream::consumer;
use common::bus::Holder;
use serde::Serialize;

use crate::sources::nats::{NatsReport, StreamReport, listener};

/// STAN's `Subscriptionz`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Subscription {
    /// Empty for a group without members, as STAN shows an offline durable.
    client_id: String,
    ack_inbox: String,
    durable_name: String,
    queue_name: String,
    is_durable: bool,
    /// The group has no member.
    is_offline: bool,
    max_inflight: i64,
    /// Seconds.
    ack_wait: u64,
    /// The last sequence sent to the group.
    last_sent: u64,
    /// Events sent to the group and not yet acknowledged.
    pending_count: usize,
    /// The group has as many unacknowledged events as it may.
    is_stalled: bool,
}

impl Subscription {
    /// The subscription of a listener in no group, whose consumer ends with it.
    fn of_listener(client_id: &str, consumer: &consumer::Info) -> Self {
        Self {
            durable_name: String::new(),
            queue_name: String::new(),
            is_durable: false,
            ..Self::new(client_id, consumer)
        }
    }

    fn new(client_id: &str, group: &consumer::Info) -> Self {
        let stalled = i64::try_from(group.num_ack_pending).is_ok_and(|in_hand| {
            group.config.max_ack_pending > 0 && in_hand >= group.config.max_ack_pending
        });
        Self {
            client_id: client_id.to_owned(),
            ack_inbox: format!("$JS.ACK.{}.{}", group.stream_name, group.name),
            durable_name: group.name.clone(),
            queue_name: group.name.clone(),
            is_durable: true,
            is_offline: client_id.is_empty(),
            max_inflight: group.config.max_ack_pending,
            ack_wait: group.config.ack_wait.as_secs(),
            last_sent: group.delivered.stream_sequence,
            pending_count: group.num_ack_pending,
            is_stalled: stalled,
        }
    }
}

/// The members of a queue group.
pub(super) fn members<'a>(
    report: &'a NatsReport,
    group: &'a str,
) -> impl Iterator<Item = &'a Holder> {
    report.holders.iter().filter(move |holder| holder.queue_groups.iter().any(|name| name == group))
}

/// Whether a group takes a subject.
fn takes(group: &consumer::Info, subject: &str) -> bool {
    let config = &group.config;
    let all = config.filter_subject.is_empty() && config.filter_subjects.is_empty();
    all || config.filter_subject == subject || config.filter_subjects.iter().any(|s| s == subject)
}

/// Who is subscribed to a subject.
pub(super) fn of_channel(
    report: &NatsReport,
    stream: &StreamReport,
    subject: &str,
) -> Vec<Subscription> {
    let listeners = stream.listeners.iter().filter(|consumer| takes(consumer, subject));
    let listeners = listeners
        .filter_map(|consumer| Some(Subscription::of_listener(listener(consumer)?, consumer)));
    let groups = stream.groups.iter().filter(|group| takes(group, subject));
    groups
        .flat_map(|group| {
            let mut ids: Vec<&str> =
                members(report, &group.name).map(|holder| holder.client_id.as_str()).collect();
            if ids.is_empty() {
                ids.push("");
            }
            ids.into_iter().map(|id| Subscription::new(id, group)).collect::<Vec<_>>()
        })
        .chain(listeners)
        .collect()
}

/// What a client is subscribed to, each with its subject.
pub(super) fn of_client(report: &NatsReport, holder: &Holder) -> Vec<(String, Subscription)> {
    let id = holder.client_id.as_str();
    let mut found = Vec::new();
    for stream in &report.streams {
        let groups = stream.groups.iter().filter(|group| holder.queue_groups.contains(&group.name));
        let groups = groups.map(|group| (group, Subscription::new(id, group)));
        let listeners = stream.listeners.iter().filter(|consumer| listener(consumer) == Some(id));
        let listeners =
            listeners.map(|consumer| (consumer, Subscription::of_listener(id, consumer)));
        for (consumer, subscription) in groups.chain(listeners) {
            let subjects = &stream.info.config.subjects;
            let taken = subjects.iter().filter(|subject| takes(consumer, subject));
            found.extend(taken.map(|subject| (subject.clone(), subscription.clone())));
        }
    }
    found
}
