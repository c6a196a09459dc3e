//! The outcome of each experiment, followed until everything is back to normal: who noticed what and when, how much
//! piled up and was repeated, and whether every ticket of the load arrived.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use time::OffsetDateTime;

use super::{
    Sums,
    experiment::{Experiment, Observation},
};
use crate::{
    live::snapshot::{Part, Snapshot},
    sources::replicas::State,
};

/// How many experiments are kept, and how many observations of each. Every snapshot contains all of them.
const KEPT: usize = 5;
const MAX_SEEN: usize = 30;
/// How long the system must stay healthy before an experiment ends.
const WELL_FOR: time::Duration = time::Duration::seconds(3);
/// The longest time that an experiment is followed.
const LONGEST: time::Duration = time::Duration::minutes(10);

/// Counters of a replica. A restart sets them to 0.
pub(crate) const COUNTERS: [&str; 3] =
    ["bus_redelivered_total", "bus_duplicates_total", "bus_refilled_total"];

/// The experiments since the console started, the newest first.
#[derive(Debug, Clone, Default)]
pub struct Experiments(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    known: VecDeque<Followed>,
    before: Option<Before>,
    /// The last counters of each replica.
    counted: BTreeMap<String, [f64; 3]>,
}

/// The part of a snapshot that the next one is compared with.
#[derive(Debug)]
struct Before {
    parts: Vec<Part>,
    /// The client ids of the members of all groups that hold a lease.
    holders: Vec<String>,
    streams: Vec<String>,
    /// Dead letters by queue group.
    dead: BTreeMap<String, f64>,
    sums: Sums,
}

/// An experiment, and what is needed to follow it.
#[derive(Debug)]
struct Followed {
    shown: Experiment,
    /// It cannot end before this.
    lasts_until: OffsetDateTime,
    /// When everything last became healthy.
    well_since: Option<OffsetDateTime>,
    counted: [f64; 3],
    /// The peak backlog, by place.
    waited: BTreeMap<String, f64>,
    /// Tickets of a load answered 201 before it began.
    accepted_before: u64,
    /// Whether another experiment was in progress at the same time.
    overlaps: bool,
}

impl Experiments {
    /// Starts to follow what was just done. The experiment cannot end before `lasts` has passed.
    pub(super) fn begin(&self, what: String, lasts: Duration) {
        let (at, mut inner) = (OffsetDateTime::now_utc(), self.inner());
        let accepted_before = inner.before.as_ref().map_or(0, |before| before.sums.accepted);
        inner.known.truncate(KEPT - 1);
        let mut overlaps = false;
        for other in inner.known.iter_mut().filter(|known| known.shown.outcome.is_empty()) {
            other.overlaps = true;
            overlaps = true;
        }
        inner.known.push_front(Followed {
            shown: Experiment { at, what, seen: Vec::new(), outcome: String::new() },
            lasts_until: at + lasts,
            well_since: None,
            counted: [0.0; 3],
            waited: BTreeMap::new(),
            accepted_before,
            overlaps,
        });
    }

    /// Adds a snapshot, and the counters of each replica by client id, to the experiments that have not ended.
    /// Returns all experiments.
    pub(crate) fn note(
        &self,
        snapshot: &Snapshot,
        counted: Vec<(String, [f64; 3])>,
    ) -> Vec<Experiment> {
        let mut inner = self.inner();
        let mut more = [0.0; 3];
        for (replica, numbers) in counted {
            let before = inner.counted.insert(replica, numbers).unwrap_or(numbers);
            for ((more, now), before) in more.iter_mut().zip(numbers).zip(before) {
                *more += if now < before { now } else { now - before };
            }
        }
        let now = Before::of(snapshot);
        let seen = inner.before.as_ref().map(|before| before.changes(&now)).unwrap_or_default();
        for experiment in inner.known.iter_mut().filter(|known| known.shown.outcome.is_empty()) {
            experiment.note(snapshot, &seen, more);
        }
        inner.before = Some(now);
        inner.known.iter().map(|known| known.shown.clone()).collect()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Before {
    fn of(snapshot: &Snapshot) -> Self {
        let groups = || snapshot.flows.iter().flat_map(|flow| &flow.groups);
        let dead = groups().filter_map(|group| Some((group.name.clone(), group.dead_letters?)));
        let members = groups().flat_map(|group| &group.members);
        let holders = members.filter(|member| member.since.is_some());
        Self {
            parts: snapshot.parts.clone(),
            holders: holders.map(|member| member.client_id.clone()).collect(),
            streams: snapshot.flows.iter().map(|flow| flow.stream.clone()).collect(),
            dead: dead.collect(),
            sums: snapshot.sums.clone(),
        }
    }

    /// The changes from this to `now`, in words.
    fn changes(&self, now: &Self) -> Vec<String> {
        let mut seen = Vec::new();
        for part in &now.parts {
            let Some(before) = self.parts.iter().find(|before| before.name == part.name) else {
                continue;
            };
            let name = &part.name;
            if before.state != part.state {
                let why =
                    if part.why.is_empty() { String::new() } else { format!(": {}", part.why) };
                seen.push(match part.state {
                    State::Ready => format!("{name} is ready again"),
                    State::NotReady => format!("{name} is not ready{why}"),
                    State::Down => format!("{name} is down{why}"),
                    State::Frozen => format!("{name} is frozen{why}"),
                });
            }
            match (before.connected, part.connected) {
                (Some(true), Some(false)) => {
                    seen.push(format!("{name} noticed that NATS does not answer"));
                }
                (Some(false), Some(true)) => seen.push(format!("{name} reached NATS again")),
                _ => {}
            }
        }
        let only_in = |seen: &mut Vec<String>, one: &[String], other: &[String], words: &str| {
            let only = one.iter().filter(|name| !other.contains(name));
            seen.extend(only.map(|name| format!("{name} {words}")));
        };
        only_in(&mut seen, &self.holders, &now.holders, "lost the lease on its client id");
        only_in(&mut seen, &now.holders, &self.holders, "took the lease on its client id");
        only_in(&mut seen, &self.streams, &now.streams, "was deleted");
        only_in(&mut seen, &now.streams, &self.streams, "exists again");
        for (group, dead) in &now.dead {
            if self.dead.get(group).is_some_and(|before| before != dead) {
                seen.push(format!(
                    "{group} has {dead:.0} dead {}",
                    if *dead == 1.0 { "letter" } else { "letters" }
                ));
            }
        }
        seen
    }
}

impl Followed {
    fn note(&mut self, snapshot: &Snapshot, seen: &[String], more: [f64; 3]) {
        let after = (snapshot.at - self.shown.at).as_seconds_f64();
        for text in seen {
            if self.shown.seen.len() < MAX_SEEN {
                self.shown.seen.push(Observation { after, text: text.clone() });
            }
        }
        for (sum, more) in self.counted.iter_mut().zip(more) {
            *sum += more;
        }
        let mut waits = snapshot.sums.running || snapshot.sums.waiting > 0;
        for (place, number) in waiting(snapshot) {
            waits |= number > 0.0;
            let most = self.waited.entry(place).or_default();
            *most = most.max(number);
        }
        let all_ready = snapshot
            .parts
            .iter()
            .all(|part| part.state == State::Ready && part.connected != Some(false));
        let well = all_ready && !waits && snapshot.at >= self.lasts_until;
        self.well_since = self.well_since.filter(|_| well).or(well.then_some(snapshot.at));
        if let Some(since) = self.well_since.filter(|since| snapshot.at - *since >= WELL_FOR) {
            let took = (since - self.shown.at).as_seconds_f64();
            self.shown.outcome =
                format!("Back to normal after {took:.0} s. {}", self.results(&snapshot.sums));
        } else if snapshot.at - self.shown.at >= LONGEST {
            self.shown.outcome = format!(
                "Not back to normal after {} minutes; no longer followed. {}",
                LONGEST.whole_minutes(),
                self.results(&snapshot.sums)
            );
        }
    }

    /// The peak backlog, the repetitions, and whether the tickets of a load are in orders.
    fn results(&self, sums: &Sums) -> String {
        let waited = self.waited.iter().filter(|(_, most)| **most > 0.0);
        let waited: Vec<_> = waited.map(|(place, most)| format!("{most:.0} {place}")).collect();
        let mut results = if waited.is_empty() {
            "No backlog was seen.".to_owned()
        } else {
            format!("Peak backlog: {}.", waited.join(", "))
        };
        let [redelivered, duplicates, refilled] = self.counted;
        if refilled > 0.0 {
            results += &format!(" Republished from Postgres: {refilled:.0}.");
        }
        if redelivered > 0.0 {
            results += &format!(" Redelivered: {redelivered:.0}.");
        }
        if duplicates > 0.0 {
            results += &format!(" Duplicates recognized and skipped: {duplicates:.0}.");
        }
        let accepted = sums.accepted - self.accepted_before.min(sums.accepted);
        if accepted > 0 && sums.waiting == 0 {
            results += &format!(
                " All {accepted} tickets that the load posted since then and that were answered 201 are in orders."
            );
        } else if sums.waiting > 0 {
            let tickets = if sums.waiting == 1 { "ticket is" } else { "tickets are" };
            results += &format!(" {} {tickets} not in orders yet.", sums.waiting);
        }
        if self.overlaps {
            results +=
                " Another experiment was in progress at the same time; these numbers cover both.";
        }
        results
    }
}

/// The backlog, by place.
fn waiting(snapshot: &Snapshot) -> Vec<(String, f64)> {
    let mut waiting = Vec::new();
    for flow in &snapshot.flows {
        if let Some(publisher) = &flow.publisher {
            let place = format!("in the outbox of {}", publisher.service);
            waiting.push((place, publisher.waiting.unwrap_or(0.0)));
        }
        for group in &flow.groups {
            let in_hand = u32::try_from(group.in_hand).map_or(f64::MAX, f64::from);
            waiting.push((format!("waiting for {}", group.name), whole(group.waiting)));
            waiting.push((format!("in hand at {}", group.name), in_hand));
        }
    }
    waiting
}

#[expect(clippy::cast_precision_loss, reason = "a number for people")]
fn whole(number: u64) -> f64 {
    number as f64
}
