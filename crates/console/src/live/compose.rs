//! Composes snapshots from the answers of NATS and the replicas.

use std::collections::BTreeMap;

use async_nats::jetstream::consumer;
use common::bus::Holder;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::{
    Acts, NatsKnown,
    databases::unreachable_databases,
    snapshot::{Flow, Group, Member, Part, Publisher, Snapshot},
    tracker::Tracker,
};
use crate::act::COUNTERS;
use crate::sources::{
    nats::{NatsReport, StreamReport},
    replicas::{ReplicaReport, Replicas, State},
};

/// Composes snapshots, and remembers what it needs for the next one.
#[derive(Debug)]
pub(super) struct Composer {
    tracker: Tracker,
    acts: Acts,
}

/// What one snapshot is made of.
struct Known<'a> {
    now: OffsetDateTime,
    instant: Instant,
    replicas: &'a Replicas,
    nats: &'a NatsKnown,
}

impl Known<'_> {
    fn of_service(&self, service: &str) -> impl Iterator<Item = &ReplicaReport> {
        self.replicas.values().filter(move |replica| replica.service == service)
    }

    fn by_client_id(&self, id: &str) -> Option<&ReplicaReport> {
        self.replicas.values().find(|replica| replica.client_id == id)
    }
}

impl Composer {
    pub(super) fn new(acts: Acts) -> Self {
        Self { tracker: Tracker::default(), acts }
    }

    pub(super) fn compose(&mut self, nats: &NatsKnown, replicas: &Replicas) -> Snapshot {
        let now = OffsetDateTime::now_utc();
        let known = Known { now, instant: Instant::now(), replicas, nats };
        let flows = match &nats.report {
            Some(report) => {
                report.streams.iter().map(|stream| self.flow(&known, report, stream)).collect()
            }
            None => Vec::new(),
        };
        let parts = self.parts(&known);
        self.tracker.forget(known.instant);
        let Acts { rights, breakable, cuttable, ledger, experiments } = &self.acts;
        let mut snapshot = Snapshot {
            at: now,
            rights: rights.access(),
            breakable: *breakable,
            cuttable: *cuttable,
            sums: ledger.sums(),
            experiments: Vec::new(),
            parts,
            flows,
        };
        snapshot.experiments = experiments.note(&snapshot, counted(replicas));
        snapshot
    }

    fn parts(&mut self, known: &Known<'_>) -> Vec<Part> {
        let nats = ("nats", "nats", known.nats.state, known.nats.why.as_str(), None);
        let replicas = known.replicas.values().map(|replica| {
            let ReplicaReport { client_id, service, state, why, samples } = replica;
            let connected = samples.sum("bus_connected", &[]).map(|connected| connected > 0.0);
            let connected = connected.filter(|_| state.answers());
            (client_id.as_str(), service.as_str(), *state, why.as_str(), connected)
        });
        let databases = unreachable_databases(known.replicas);
        let databases = databases
            .iter()
            .map(|(name, why)| (name.as_str(), "postgres", State::Down, why.as_str(), None));
        let mut parts: Vec<Part> = std::iter::once(nats)
            .chain(replicas)
            .chain(databases)
            .map(|(name, service, state, why, connected)| Part {
                name: name.to_owned(),
                service: service.to_owned(),
                state,
                since: self.since(known, name, state),
                why: why.to_owned(),
                connected,
            })
            .collect();
        parts.sort_by(|one, other| (&one.service, &one.name).cmp(&(&other.service, &other.name)));
        parts
    }

    fn since(&mut self, known: &Known<'_>, name: &str, state: State) -> OffsetDateTime {
        self.tracker.since(&format!("state of {name}"), &format!("{state:?}"), known.now)
    }

    fn flow(&mut self, known: &Known<'_>, report: &NatsReport, stream: &StreamReport) -> Flow {
        let (config, state) = (&stream.info.config, &stream.info.state);
        // A stream has the name of its service, in capitals.
        let publisher = self.publisher(known, &config.name.to_lowercase());
        let rate = self.tracker.rate(
            &format!("published to {}", config.name),
            precise(state.last_sequence),
            known.instant,
        );
        let groups = stream.groups.iter().map(|group| self.group(known, report, group)).collect();
        Flow {
            stream: config.name.clone(),
            subjects: config.subjects.clone(),
            publisher,
            messages: state.messages,
            bytes: state.bytes,
            last_sequence: state.last_sequence,
            rate,
            current: known.nats.state == State::Ready,
            groups,
        }
    }

    fn publisher(&mut self, known: &Known<'_>, service: &str) -> Option<Publisher> {
        known.of_service(service).next()?;
        let answering = || known.of_service(service).filter(|replica| replica.state.answers());
        // All replicas measure the same outbox, at different times: shows the worst.
        let largest = |name| {
            answering().filter_map(|replica| replica.samples.sum(name, &[])).max_by(f64::total_cmp)
        };
        let waiting = largest("bus_outbox_depth");
        let mut rate = 0.0;
        // A replica without metrics does not count as 0: its first number would look like a rate.
        for replica in known.of_service(service).filter(|replica| !replica.samples.is_empty()) {
            let made = [("method", "POST"), ("status", "201")];
            let posted = replica.samples.sum("http_request_seconds_count", &made);
            let what = format!("posted to {}", replica.client_id);
            rate += self.tracker.rate(&what, posted.unwrap_or(0.0), known.instant);
        }
        Some(Publisher {
            service: service.to_owned(),
            rate,
            waiting,
            oldest_seconds: largest("bus_outbox_oldest_seconds"),
            waiting_since: self.tracker.waiting_since(
                &format!("outbox of {service}"),
                waiting.unwrap_or(0.0),
                known.now,
            ),
        })
    }

    fn group(&mut self, known: &Known<'_>, report: &NatsReport, group: &consumer::Info) -> Group {
        let (config, name) = (&group.config, &group.name);
        let key = format!("{}/{name}", group.stream_name);
        let members = self.members(known, report, name);
        let dead_letters = known.replicas.values().filter_map(|replica| {
            let counted = replica.samples.sum("bus_dead_letters", &[("group", name)]);
            counted.filter(|_| replica.state.answers())
        });
        let limit = usize::try_from(config.max_ack_pending).unwrap_or(0);
        let waiting = precise(group.num_pending);
        Group {
            name: name.clone(),
            waiting: group.num_pending,
            waiting_since: self.tracker.waiting_since(
                &format!("waiting in {key}"),
                waiting,
                known.now,
            ),
            in_hand: group.num_ack_pending,
            in_hand_since: self.in_hand_since(&key, group, known.now),
            redelivered: group.num_redelivered,
            last_sent: group.delivered.stream_sequence,
            acknowledged: group.ack_floor.stream_sequence,
            rate: self.tracker.rate(
                &format!("acknowledged in {key}"),
                precise(group.ack_floor.consumer_sequence),
                known.instant,
            ),
            ack_wait_seconds: config.ack_wait.as_secs_f64(),
            max_in_hand: config.max_ack_pending,
            stalled: limit > 0 && group.num_ack_pending >= limit,
            paused: group.paused,
            dead_letters: dead_letters.max_by(f64::total_cmp),
            members,
        }
    }

    /// When the events in hand began to wait: when the group's acknowledged sequence last moved, or when it got the
    /// first of them.
    fn in_hand_since(
        &mut self,
        key: &str,
        group: &consumer::Info,
        now: OffsetDateTime,
    ) -> Option<OffsetDateTime> {
        let in_hand = (group.num_ack_pending > 0).then_some(group.ack_floor.consumer_sequence);
        let since = self.tracker.since(&format!("in hand in {key}"), &format!("{in_hand:?}"), now);
        in_hand.map(|_| since)
    }

    fn members(&mut self, known: &Known<'_>, report: &NatsReport, group: &str) -> Vec<Member> {
        let holders = report
            .holders
            .iter()
            .filter(|holder| holder.queue_groups.iter().any(|name| name == group));
        let mut by_id: BTreeMap<String, Option<&Holder>> =
            holders.map(|holder| (holder.client_id.to_string(), Some(holder))).collect();
        // The lease of a silent replica expires, but it remains a member.
        for replica in known.replicas.values() {
            let mut groups = replica.samples.label("bus_dead_letters", "group");
            if groups.any(|name| name == group) {
                by_id.entry(replica.client_id.clone()).or_insert(None);
            }
        }
        let members = by_id.into_iter().map(|(id, holder)| self.member(known, group, id, holder));
        members.collect()
    }

    fn member(
        &mut self,
        known: &Known<'_>,
        group: &str,
        client_id: String,
        holder: Option<&Holder>,
    ) -> Member {
        let replica = known.by_client_id(&client_id);
        // A process without probes is alive if its lease is.
        let state = replica.map_or(State::Ready, |replica| replica.state);
        let of_group = [("group", group)];
        let number = |name| replica.and_then(|replica| replica.samples.sum(name, &of_group));
        // A counter that has not counted anything yet is not in the metrics.
        let measured = replica.is_some_and(|replica| !replica.samples.is_empty());
        let counted = |name| number(name).or(measured.then_some(0.0));
        let acknowledged = counted("bus_acked_total");
        let rate = acknowledged.map(|number| {
            self.tracker.rate(
                &format!("acknowledged by {client_id} in {group}"),
                number,
                known.instant,
            )
        });
        Member {
            node: holder.map(|holder| holder.node.clone()).unwrap_or_default(),
            since: holder.map(|holder| holder.since),
            state,
            state_since: self.since(known, &client_id, state),
            last_sent: number("bus_last_sequence"),
            in_hand: number("bus_in_hand"),
            acknowledged,
            redelivered: counted("bus_redelivered_total"),
            applied: counted("bus_event_delay_seconds_count"),
            rate,
            client_id,
        }
    }
}

/// What each replica has counted, by client id.
fn counted(replicas: &Replicas) -> Vec<(String, [f64; 3])> {
    let measured = replicas.values().filter(|replica| !replica.samples.is_empty());
    let counted = measured.map(|replica| {
        let number = |name| replica.samples.sum(name, &[]).unwrap_or(0.0);
        (replica.client_id.clone(), COUNTERS.map(number))
    });
    counted.collect()
}

#[expect(clippy::cast_precision_loss, reason = "a number for people")]
fn precise(number: u64) -> f64 {
    number as f64
}
