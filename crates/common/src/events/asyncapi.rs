//! The contract as an AsyncAPI 3 document
//! (<https://www.asyncapi.com/docs/reference/specification/v3.0.0>): every event of [`ticket`] and
//! [`order`] and of the services that add theirs, generated from the types, each with examples that every release must
//! be able to read.

use std::{collections::BTreeMap, sync::OnceLock};

use axum::{Router, http::header, routing::get};
use bytes::Bytes;
use serde_json::{Map, Value, json};

pub use super::documented::{Documented, Example, ServiceEvents, faults};
use super::{order, ticket};
use bus::envelope;

/// Every family of events that services share.
const FAMILIES: &[&[Documented]] = &[ticket::DOCUMENTED, order::DOCUMENTED];

/// The services of a program that documents several.
static ADDED: OnceLock<Vec<ServiceEvents>> = OnceLock::new();

/// Adds the events of these services to every document of this process. Once, before the first document.
pub fn add(services: impl IntoIterator<Item = ServiceEvents>) {
    let _ = ADDED.set(services.into_iter().collect());
}

/// `/asyncapi.json`: the [`document`].
pub fn routes(own: &ServiceEvents) -> Router {
    // Built once: the document never changes.
    let json = Bytes::from(document(&[*own]).to_string());
    let answer = move || async { ([(header::CONTENT_TYPE, "application/json")], json) };
    Router::new().route("/asyncapi.json", get(answer))
}

/// The document: the events that services share, and those of these services and of those [added](add).
#[must_use]
pub fn document(services: &[ServiceEvents]) -> Value {
    let (mut channels, mut operations) = (Map::new(), Map::new());
    let (mut messages, mut schemas) = (Map::new(), BTreeMap::new());
    let services = || ADDED.get().into_iter().flatten().chain(services);
    let own = services().flat_map(|service| service.published);
    for event in FAMILIES.iter().copied().flatten().chain(own) {
        let name = event.subject.replace(':', "-");
        let mut parts = vec![((event.state.name)().into_owned(), (event.state.schema)())];
        (event.state.parts)(&mut parts);
        schemas.extend(parts);
        channels.insert(
            name.clone(),
            json!({
                "address": event.subject,
                "title": event.subject,
                "description": format!(
                    "A NATS subject, stored by the JetStream stream {}.", event.stream.name
                ),
                "messages": { &name: { "$ref": format!("#/components/messages/{name}") } },
            }),
        );
        operations.insert(
            format!("publish-{name}"),
            json!({
                "action": "send",
                "summary": format!("{} publishes it.", event.source.trim_start_matches('/')),
                "channel": { "$ref": format!("#/channels/{name}") },
            }),
        );
        messages.insert(name, message(event));
    }
    for ServiceEvents { queue_group, received, .. } in services() {
        let known = received.iter().map(|subject| subject.replace(':', "-"));
        for name in known.filter(|name| channels.contains_key(name)) {
            operations.insert(
                format!("{queue_group}-receives-{name}"),
                json!({
                    "action": "receive",
                    "summary": format!("Each goes to one member of the queue group {queue_group}."),
                    "channel": { "$ref": format!("#/channels/{name}") },
                }),
            );
        }
    }
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "ticketing",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Every event that the services publish. A ticket's or order's carries its \
                full state and version; of two states, the one with the greater version is \
                newer, in whatever order they arrive. Ticket events also carry created_at, updated_at \
                and hold.order_id: deprecated duplicates of createdAt, updatedAt and hold.orderId that \
                a later release removes. The event id is also the Nats-Msg-Id; use it to recognize \
                redelivered events.",
        },
        "defaultContentType": envelope::CONTENT_TYPE,
        "channels": channels,
        "operations": operations,
        "components": { "messages": messages, "schemas": schemas },
    })
}

/// An event in its envelope: CloudEvents 1.0 in structured JSON.
fn message(event: &Documented) -> Value {
    let dataschema = event.stream.data_schema(event.subject, event.schema_version);
    let examples = event.current_examples().map(|(name, data)| {
        let data: Value = serde_json::from_str(data).unwrap_or_default();
        json!({
            "name": name,
            "payload": {
                "specversion": "1.0",
                "id": "01936b2e-7c00-7000-8000-0000000000e1",
                "source": event.source,
                "type": event.subject,
                "subject": &data["id"],
                "time": data.get("updatedAt").unwrap_or(&json!("2026-01-01T12:00:00Z")),
                "datacontenttype": "application/json",
                "dataschema": dataschema,
                "data": data,
            },
        })
    });
    let text = |description: &str| json!({ "type": "string", "description": description });
    json!({
        "name": event.subject,
        "title": event.subject,
        "summary": event.summary.trim(),
        "contentType": envelope::CONTENT_TYPE,
        "payload": {
            "type": "object",
            "required": ["specversion", "id", "source", "type", "time", "dataschema", "data"],
            "properties": {
                "specversion": { "const": "1.0" },
                "id": { "type": "string", "format": "uuid", "description": "The event's id." },
                "source": { "const": event.source },
                "type": { "const": event.subject },
                "subject": text("The id of the entity that it is about, such as a ticket."),
                "time": { "type": "string", "format": "date-time", "description": "When it happened." },
                "datacontenttype": { "const": "application/json" },
                "dataschema": { "const": dataschema },
                "traceparent": text("The W3C trace context of its cause."),
                "data": { "$ref": format!("#/components/schemas/{}", (event.state.name)()) },
            },
        },
        "examples": examples.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{
        super::documented::{unreadable, unshown},
        *,
    };

    #[test]
    fn payloads_of_every_release_can_be_read_and_are_rewritten_in_the_current_format() {
        for family in FAMILIES {
            assert_eq!(unreadable(family).collect::<Vec<_>>(), [""; 0]);
        }
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/src/events/golden");
        for folder in [golden.to_owned(), format!("{golden}/before-0.1.0")] {
            for file in fs::read_dir(folder).unwrap() {
                let file = file.unwrap().path();
                let Ok(kept) = fs::read_to_string(&file) else { continue };
                let mut examples =
                    FAMILIES.iter().copied().flatten().flat_map(|event| event.examples);
                let is_used = examples.any(|(.., data)| *data == kept);
                assert!(is_used, "no event uses the example {}", file.display());
            }
        }
    }

    #[test]
    fn every_field_of_an_event_appears_in_an_example_of_its_family() {
        for family in FAMILIES {
            assert_eq!(unshown(family), [""; 0]);
        }
    }

    #[test]
    fn the_document_has_every_subject_of_every_stream_and_no_dangling_reference() {
        let listener = |received| ServiceEvents { published: &[], queue_group: "group", received };
        let document = document(&[listener(&["ticket:created", "unknown:subject"])]);
        for subject in FAMILIES.iter().copied().flatten().flat_map(|event| event.stream.subjects) {
            let name = subject.replace(':', "-");
            assert_eq!(document["channels"][&name]["address"], *subject);
            assert_ne!(document["components"]["messages"][&name]["examples"], json!([]));
            assert_eq!(document["operations"][format!("publish-{name}")]["action"], "send");
        }
        assert_eq!(document["operations"]["group-receives-ticket-created"]["action"], "receive");
        let text = document.to_string();
        for reference in text.split(r##""$ref":"#"##).skip(1) {
            let pointer = reference.split('"').next().unwrap();
            assert!(document.pointer(pointer).is_some(), "{pointer} does not exist");
        }
    }
}
