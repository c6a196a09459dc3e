//! The timeline of a ticket, an order, or any other entity: its events, from the service that committed each to the
//! queue groups that take it. Combines the answers of the services' operations APIs and of NATS.

use std::collections::{BTreeMap, BTreeSet};

use async_nats::jetstream::consumer;
use axum::{
    Json,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use common::{
    bus::timeline::{LONGEST_ENTITY, received::MAX_EVENTS},
    pod::problem::Problem,
};
use futures::future::join_all;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Operations;
use crate::{
    Console,
    sources::nats::{NatsReport, listener},
};

/// The most pages of events read from one service.
const PAGES: usize = 5;

#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    entity: String,
}

/// What each queue group knows of one event, with the service that the group belongs to.
pub(super) type Received = BTreeMap<String, (String, Value)>;

/// `/api/timeline?entity=…`.
pub(super) async fn timeline(
    State(console): State<Console>,
    Query(Wanted { entity }): Query<Wanted>,
) -> Response {
    let entity = entity.trim();
    if !(1..=LONGEST_ENTITY).contains(&entity.chars().count()) {
        let detail = format!("The id must have 1 to {LONGEST_ENTITY} characters.");
        return Problem::new(StatusCode::BAD_REQUEST, detail).into_response();
    }
    let operations = &console.operations;
    let services = operations.services();
    let asked = join_all(services.iter().map(|service| published(operations, service, entity)));
    let (asked, report) = tokio::join!(asked, console.nats.report());
    let (mut events, mut told) = (Vec::new(), Vec::new());
    for (service, asked) in services.iter().zip(asked) {
        match asked {
            Ok((of_service, complete)) => {
                told.push(json!({ "service": service, "complete": complete }));
                events.extend(of_service.into_iter().map(|event| (service.clone(), event)));
            }
            Err(why) => told.push(json!({ "service": service, "why": why.to_string() })),
        }
    }
    let ids: BTreeSet<String> =
        events.iter().filter_map(|(_, event)| event["id"].as_str().map(str::to_owned)).collect();
    let ids: Vec<String> = ids.into_iter().collect();
    let Answers { received, groups, failed } = received(operations, &services, &ids).await;
    for service in &mut told {
        if let Some(why) = service["service"].as_str().and_then(|name| failed.get(name)) {
            service["why"] = why.as_str().into();
        }
    }
    let events: Vec<Value> = events
        .into_iter()
        .map(|(service, mut event)| {
            let nothing = Received::new();
            let of_event = received.get(event["id"].as_str().unwrap_or_default());
            let of_event = of_event.unwrap_or(&nothing);
            event["groups"] = steps(&event, of_event, &groups, report.as_ref().ok());
            event["service"] = service.into();
            event
        })
        .collect();
    let nats = report.err().map(|error| format!("{error:#}"));
    Json(json!({ "entity": entity, "events": events, "services": told, "nats": nats }))
        .into_response()
}

/// The events that a service committed about an entity, and whether these are all.
async fn published(
    operations: &Operations,
    service: &str,
    entity: &str,
) -> anyhow::Result<(Vec<Value>, bool)> {
    let (mut events, mut after, mut complete) = (Vec::new(), None, true);
    for _ in 0..PAGES {
        let mut query = reqwest::Url::parse("http://any")?;
        query.query_pairs_mut().append_pair("entity", entity);
        if let Some(after) = after {
            query.query_pairs_mut().append_pair("after", &i64::to_string(&after));
        }
        let answered = operations.get(service, "/operations/events", query.query()).await?;
        let (StatusCode::OK, mut page) = answered else {
            anyhow::bail!("it answers {} (is its OPERATIONS_API on?)", answered.0);
        };
        complete &= page["complete"] == true;
        if let Value::Array(of_page) = page["events"].take() {
            events.extend(of_page);
        }
        after = page["next"].as_i64();
        if after.is_none() {
            return Ok((events, complete));
        }
    }
    Ok((events, false))
}

/// The answers of all services.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// What each queue group knows of each event, by event id.
    pub(super) received: BTreeMap<String, Received>,
    /// The groups of the services that answered for all events, and their services.
    pub(super) groups: BTreeMap<String, String>,
    /// The services that did not, and why.
    pub(super) failed: BTreeMap<String, String>,
}

/// Asks every service what its queue groups know of these events.
pub(super) async fn received(
    operations: &Operations,
    services: &BTreeSet<String>,
    ids: &[String],
) -> Answers {
    let Answers { mut received, mut groups, mut failed } = Answers::default();
    for ids in ids.chunks(MAX_EVENTS) {
        let body = json!({ "ids": ids });
        let asked = services.iter().map(async |service| {
            let path = "/operations/events/received";
            (service, operations.ask(service, path, &body).await)
        });
        for (service, answer) in join_all(asked).await {
            let answer = match answer {
                Ok((StatusCode::OK, answer)) => answer,
                Ok((status, _)) => {
                    failed.insert(service.clone(), format!("it answers {status}"));
                    continue;
                }
                Err(why) => {
                    failed.insert(service.clone(), format!("{why:#}"));
                    continue;
                }
            };
            for group in answer["queueGroups"].as_array().into_iter().flatten() {
                let group = group.as_str().unwrap_or_default();
                groups.insert(group.to_owned(), service.clone());
            }
            for row in answer["received"].as_array().into_iter().flatten() {
                let text = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
                let of_event = received.entry(text("eventId")).or_default();
                of_event.insert(text("queueGroup"), (service.clone(), row.clone()));
            }
        }
    }
    groups.retain(|_, service| !failed.contains_key(service));
    Answers { received, groups, failed }
}

/// The state of an event in each queue group that takes it, and for each listener that is in no group.
fn steps(
    event: &Value,
    received: &Received,
    groups: &BTreeMap<String, String>,
    report: Option<&NatsReport>,
) -> Value {
    let stream = event["stream"].as_str().unwrap_or_default();
    let subject = event["subject"].as_str().unwrap_or_default();
    let streams = || {
        let streams = report.into_iter().flat_map(|report| &report.streams);
        streams.filter(|known| known.info.config.name == stream)
    };
    let mut taking: BTreeMap<&str, Option<&consumer::Info>> = streams()
        .flat_map(|known| &known.groups)
        .filter(|group| takes(group, subject))
        .map(|group| (group.name.as_str(), Some(group)))
        .collect();
    for group in received.keys() {
        taking.entry(group).or_insert(None);
    }
    let steps = taking.into_iter().map(|(name, consumer)| {
        let (service, known) = received.get(name).cloned().unwrap_or_default();
        let service = if service.is_empty() { groups.get(name).cloned() } else { Some(service) };
        let state = state(event, &known, consumer, service.is_some());
        json!({ "queueGroup": name, "service": service, "state": state, "known": known })
    });
    let listeners = streams().flat_map(|known| &known.listeners);
    let listeners = listeners.filter(|consumer| takes(consumer, subject)).filter_map(|consumer| {
        let state = state(event, &Value::Null, Some(consumer), false);
        Some(json!({ "listener": listener(consumer)?, "state": state, "known": null }))
    });
    Value::Array(steps.chain(listeners).collect())
}

pub(super) fn takes(group: &consumer::Info, subject: &str) -> bool {
    let (one, many) = (&group.config.filter_subject, &group.config.filter_subjects);
    one.is_empty() && many.is_empty() || one == subject || many.iter().any(|many| many == subject)
}

/// The state of an event in a queue group.
fn state(
    event: &Value,
    known: &Value,
    consumer: Option<&consumer::Info>,
    asked: bool,
) -> &'static str {
    if known["appliedBy"].is_string() {
        return "applied";
    }
    if known["deadLetter"].is_number() {
        return if known["redriveAt"].is_string() { "redriven" } else { "dead" };
    }
    let last_act = known["acts"].as_array().and_then(|acts| acts.last());
    if last_act.is_some_and(|act| act["act"] == "discard") {
        return "discarded";
    }
    if known["lastAttemptAt"].is_string() {
        return "retrying";
    }
    let publication = &event["publication"];
    if publication["state"] == "waiting" || publication["state"] == "lost" {
        return "unpublished";
    }
    let (Some(consumer), Some(sequence)) = (consumer, publication["sequence"].as_u64()) else {
        return "unknown";
    };
    match sequence {
        // Only the group's service can tell whether it was applied.
        sequence if sequence <= consumer.ack_floor.stream_sequence && asked => "missing",
        sequence if sequence <= consumer.ack_floor.stream_sequence => "acknowledged",
        sequence if sequence > consumer.delivered.stream_sequence => "waiting",
        _ => "delivered",
    }
}
