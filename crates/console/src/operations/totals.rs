//! Whether the totals match: compares the newest events that each service committed, one by one, with their state in
//! every queue group that takes them. It does not compare counters: a restart resets them, so they would agree only by
//! chance. An event that is neither applied, nor a dead letter, nor on its way is missing, and is named.
//!
//! The order of the queries makes it exact while everything runs: first what was committed, then what NATS still has
//! to deliver, then what was applied. An event that NATS no longer held after the first query must be in the answer
//! to the last one, because members acknowledge after their commit.

use std::collections::{BTreeMap, BTreeSet};

use async_nats::jetstream::consumer;
use axum::{
    Json,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use common::pod::problem::Problem;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Operations,
    timeline::{Answers, Received, received, takes},
};
use crate::Console;

/// How many of the newest events of a stream are checked at most, and by default.
pub(crate) const MOST: usize = 5_000;
const USUAL: usize = 2_000;
/// How many events to request from a service at once.
const PAGE: usize = 1_000;
/// How many missing events are named.
const NAMED: usize = 20;

#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    events: Option<usize>,
}

/// The sums of one stream.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct OfStream {
    stream: String,
    service: String,
    /// When the oldest checked event was written.
    since: Option<String>,
    /// Whether there are older events in the log, which were not checked.
    more: bool,
    committed: usize,
    published: usize,
    /// Committed and not yet published.
    unpublished: usize,
    /// Confirmed by the stream, then lost by it, and to be republished; counted in the whole log.
    lost: i64,
    groups: Vec<OfGroup>,
}

/// The sums of one queue group: `taken` is the sum of the other numbers.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct OfGroup {
    queue_group: String,
    /// The service that was asked; `None` when none has an operations API for this group, or it did not answer.
    service: Option<String>,
    /// Published events that the group takes.
    taken: usize,
    applied: usize,
    retrying: usize,
    dead: usize,
    discarded: usize,
    /// NATS still has to deliver them, or waits for their acknowledgement.
    waiting: usize,
    /// Neither applied nor a dead letter, and NATS no longer has them: at least this many.
    missing: usize,
    /// The ids of the first missing ones; none while others are on their way.
    named: Vec<String>,
}

/// `/api/totals?events=…`.
pub(super) async fn totals(
    State(console): State<Console>,
    Query(Wanted { events }): Query<Wanted>,
) -> Response {
    let most = events.unwrap_or(USUAL);
    if !(1..=MOST).contains(&most) {
        let detail = format!("The number of events must be 1 to {MOST}.");
        return Problem::new(StatusCode::BAD_REQUEST, detail).into_response();
    }
    let operations = &console.operations;
    let services = operations.services();
    let mut unknown = Vec::new();
    let asked = services.iter().map(|service| committed(operations, service, most));
    let mut streams: Vec<(OfStream, Vec<Value>)> = Vec::new();
    for (service, answer) in services.iter().zip(join_all(asked).await) {
        match answer {
            Ok(of_service) => streams.extend(of_service),
            Err(why) => unknown.push(format!("{service}: {why}")),
        }
    }
    let report = match console.nats.report().await {
        Ok(report) => report,
        Err(why) => {
            return Problem::new(StatusCode::BAD_GATEWAY, format!("{why:#}")).into_response();
        }
    };
    let mut told = Vec::new();
    for (mut sums, events) in streams {
        let of_stream = report.streams.iter().find(|known| known.info.config.name == sums.stream);
        let Some(of_stream) = of_stream else {
            unknown.push(format!("there is no stream {}", sums.stream));
            told.push(sums);
            continue;
        };
        let published: Vec<&Value> =
            events.iter().filter(|event| event["published"] == true).collect();
        let ids: Vec<String> =
            published.iter().filter_map(|event| event["id"].as_str().map(str::to_owned)).collect();
        let Answers { received: of_events, groups, failed } =
            received(operations, &services, &ids).await;
        for (service, why) in failed {
            unknown.push(format!("events of {} in {service}: {why}", sums.stream));
        }
        for group in &of_stream.groups {
            sums.groups.push(of_group(group, &published, &of_events, &groups, sums.lost));
        }
        told.push(sums);
    }
    Json(json!({ "streams": told, "unknown": unknown })).into_response()
}

/// The newest events of each stream of a service, and their sums.
async fn committed(
    operations: &Operations,
    service: &str,
    most: usize,
) -> anyhow::Result<Vec<(OfStream, Vec<Value>)>> {
    let (StatusCode::OK, about) = operations.get(service, "/operations", None).await? else {
        anyhow::bail!("its OPERATIONS_API is off");
    };
    let mut streams = Vec::new();
    for stream in about["streams"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let mut sums = OfStream {
            stream: stream.to_owned(),
            service: service.to_owned(),
            more: true,
            ..OfStream::default()
        };
        let (mut events, mut after) = (Vec::new(), String::new());
        while events.len() < most && sums.more {
            let limit = PAGE.min(most - events.len());
            let query = format!("stream={stream}&limit={limit}{after}");
            let path = "/operations/events/newest";
            let answered = operations.get(service, path, Some(&query)).await?;
            let (StatusCode::OK, mut page) = answered else {
                anyhow::bail!("it answers {}", answered.0);
            };
            if let Value::Array(of_page) = page["events"].take() {
                events.extend(of_page);
            }
            sums.lost = page["lost"].as_i64().unwrap_or_default();
            sums.more = page["next"].is_string();
            after = page["next"].as_str().map_or(String::new(), |next| format!("&after={next}"));
        }
        sums.committed = events.len();
        sums.published = events.iter().filter(|event| event["published"] == true).count();
        sums.unpublished = sums.committed - sums.published;
        sums.since = events.last().and_then(|last| last["writtenAt"].as_str().map(str::to_owned));
        streams.push((sums, events));
    }
    Ok(streams)
}

fn of_group(
    group: &consumer::Info,
    published: &[&Value],
    received: &BTreeMap<String, Received>,
    groups: &BTreeMap<String, String>,
    lost: i64,
) -> OfGroup {
    let mut sums = OfGroup {
        queue_group: group.name.clone(),
        service: groups.get(&group.name).cloned(),
        ..OfGroup::default()
    };
    // A group without an operations API cannot be checked.
    if sums.service.is_none() {
        return sums;
    }
    let open = group.num_pending + group.num_ack_pending as u64;
    let may_wait = open > 0 || lost > 0;
    let mut seen = BTreeSet::new();
    for event in published {
        let (id, subject) = (event["id"].as_str(), event["subject"].as_str().unwrap_or_default());
        let Some(id) = id.filter(|id| takes(group, subject) && seen.insert(id.to_owned())) else {
            continue;
        };
        sums.taken += 1;
        let known = received.get(id).and_then(|of_event| of_event.get(&group.name));
        let known = known.map_or(&Value::Null, |(_, known)| known);
        let discarded = known["acts"].as_array().and_then(|acts| acts.last());
        if known["appliedBy"].is_string() {
            sums.applied += 1;
        } else if known["deadLetter"].is_number() {
            sums.dead += 1;
        } else if discarded.is_some_and(|act| act["act"] == "discard") {
            sums.discarded += 1;
        } else if known["lastAttemptAt"].is_string() {
            sums.retrying += 1;
        } else if may_wait {
            sums.waiting += 1;
        } else {
            sums.missing += 1;
            if sums.named.len() < NAMED {
                sums.named.push(id.to_owned());
            }
        }
    }
    // No more can be on their way than NATS still holds or gets again. Which of them are missing shows once it has
    // delivered those.
    let on_their_way = open.saturating_add(u64::try_from(lost).unwrap_or(0));
    let excess = sums.waiting.saturating_sub(usize::try_from(on_their_way).unwrap_or(usize::MAX));
    sums.waiting -= excess;
    sums.missing += excess;
    sums
}
