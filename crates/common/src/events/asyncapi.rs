//! The contract as a document: every event of [`ticket`] and [`order`] in AsyncAPI 3
//! (<https://www.asyncapi.com/docs/reference/specification/v3.0.0>), made from the types themselves, each
//! with examples that every release must be able to read.

use std::{borrow::Cow, collections::BTreeMap};

use axum::{Router, http::header, routing::get};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};

#[cfg(test)]
use super::{DecodeError, EventSet};
use super::{Event, Stream, order, ticket};
use bus::envelope;

/// An event as the document describes it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Documented {
    subject: &'static str,
    stream: &'static Stream,
    source: &'static str,
    schema_version: u32,
    summary: &'static str,
    state: State,
    /// Reads a payload and writes it again.
    #[cfg(test)]
    rewrite: fn(&str) -> Result<String, DecodeError>,
}

/// The schema of what an event tells.
#[derive(Debug, Clone, Copy)]
struct State {
    name: fn() -> Cow<'static, str>,
    schema: fn() -> RefOr<Schema>,
    parts: fn(&mut Vec<(String, RefOr<Schema>)>),
}

impl Documented {
    pub(super) const fn of<E: Event, S: ToSchema + PartialSchema>(summary: &'static str) -> Self {
        Self {
            subject: E::SUBJECT,
            stream: E::STREAM,
            source: E::SOURCE,
            schema_version: E::SCHEMA_VERSION,
            summary,
            state: State { name: S::name, schema: S::schema, parts: S::schemas },
            #[cfg(test)]
            rewrite: |data| {
                let event = E::decode(E::SUBJECT, E::SCHEMA_VERSION, data)?;
                Ok(serde_json::to_string(&event).unwrap_or_default())
            },
        }
    }
}

/// What each event has said at some time, with a name for it. Only ever added to: a release that
/// cannot read one of these cannot read what is still in a stream.
const EXAMPLES: &[(&str, &str, &str)] = &[
    ("ticket:created", "new", include_str!("golden/ticket.json")),
    ("ticket:created", "new, with its seller", include_str!("golden/ticket-of-seller.json")),
    ("ticket:updated", "free", include_str!("golden/ticket.json")),
    ("ticket:updated", "reserved", include_str!("golden/ticket-reserved.json")),
    ("ticket:updated", "sold", include_str!("golden/ticket-sold.json")),
    (
        "ticket:updated",
        "reserved, with its seller",
        include_str!("golden/ticket-of-seller-reserved.json"),
    ),
    ("order:created", "reserved", include_str!("golden/order-reserved.json")),
    ("order:completed", "completed", include_str!("golden/order-completed.json")),
    ("order:cancelled", "cancelled", include_str!("golden/order-cancelled.json")),
    ("order:expired", "expired", include_str!("golden/order-expired.json")),
];

fn documented() -> impl Iterator<Item = &'static Documented> {
    ticket::DOCUMENTED.iter().chain(order::DOCUMENTED)
}

/// `/asyncapi.json`: the document.
pub fn routes() -> Router {
    // Made once: it is the same for everybody.
    let json = Bytes::from(document().to_string());
    let answer = move || async { ([(header::CONTENT_TYPE, "application/json")], json) };
    Router::new().route("/asyncapi.json", get(answer))
}

/// The document.
#[must_use]
pub fn document() -> Value {
    let (mut channels, mut operations) = (Map::new(), Map::new());
    let (mut messages, mut schemas) = (Map::new(), BTreeMap::new());
    for event in documented() {
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
                "summary": format!("{} publishes it.", &event.source[1..]),
                "channel": { "$ref": format!("#/channels/{name}") },
            }),
        );
        messages.insert(name, message(event));
    }
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "ticketing",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Every event that the services tell each other. Each carries the full \
                state of what it is about, and that state's version: the greater version is the \
                newer state, whatever the order of arrival. An event's id is its Nats-Msg-Id, and \
                the key by which to recognize one that comes again.",
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
    let examples = EXAMPLES.iter().filter(|(subject, ..)| *subject == event.subject).map(
        |(subject, name, data)| {
            let data: Value = serde_json::from_str(data).unwrap_or_default();
            json!({
                "name": name,
                "payload": {
                    "specversion": "1.0",
                    "id": "01936b2e-7c00-7000-8000-0000000000e1",
                    "source": event.source,
                    "type": subject,
                    "subject": &data["id"],
                    "time": &data["updated_at"].as_str().or(data["updatedAt"].as_str()),
                    "datacontenttype": "application/json",
                    "dataschema": dataschema,
                    "data": data,
                },
            })
        },
    );
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
                "id": { "type": "string", "format": "uuid", "description": "Which event." },
                "source": { "const": event.source },
                "type": { "const": event.subject },
                "subject": text("The id of what it is about."),
                "time": { "type": "string", "format": "date-time", "description": "When it happened." },
                "datacontenttype": { "const": "application/json" },
                "dataschema": { "const": dataschema },
                "traceparent": text("The W3C trace context that it belongs to."),
                "data": { "$ref": format!("#/components/schemas/{}", (event.state.name)()) },
            },
        },
        "examples": examples.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn what_any_release_has_published_can_still_be_read_and_is_written_the_same() {
        for event in documented() {
            let examples: Vec<_> =
                EXAMPLES.iter().filter(|(subject, ..)| *subject == event.subject).collect();
            assert!(!examples.is_empty(), "{} has no example", event.subject);
            for (subject, name, data) in examples {
                let written = (event.rewrite)(data)
                    .unwrap_or_else(|error| panic!("{subject}, {name}: {error}"));
                assert_eq!(written, data.trim(), "{subject}, {name}");
            }
        }
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/events/golden");
        for file in fs::read_dir(folder).unwrap() {
            let kept = fs::read_to_string(file.unwrap().path()).unwrap();
            assert!(EXAMPLES.iter().any(|(.., data)| *data == kept), "nobody reads {kept}");
        }
    }

    #[test]
    fn the_document_has_every_subject_of_every_stream_and_no_reference_into_nothing() {
        let document = document();
        for stream in [ticket::TICKETS, order::ORDERS] {
            for subject in stream.subjects {
                let name = subject.replace(':', "-");
                assert_eq!(document["channels"][&name]["address"], *subject);
                assert_ne!(document["components"]["messages"][&name]["examples"], json!([]));
            }
        }
        let text = document.to_string();
        for reference in text.split(r##""$ref":"#"##).skip(1) {
            let pointer = reference.split('"').next().unwrap();
            assert!(document.pointer(pointer).is_some(), "{pointer} is not there");
        }
    }
}
