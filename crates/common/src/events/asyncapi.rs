//! The contract as an AsyncAPI 3 document
//! (<https://www.asyncapi.com/docs/reference/specification/v3.0.0>): every event of [`ticket`] and
//! [`order`], generated from the types, each with examples that every release must be able to read.

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

/// Every family of events.
const FAMILIES: &[&[Documented]] = &[ticket::DOCUMENTED, order::DOCUMENTED];

/// An event, as documented.
#[derive(Debug, Clone, Copy)]
pub(super) struct Documented {
    subject: &'static str,
    stream: &'static Stream,
    source: &'static str,
    schema_version: u32,
    summary: &'static str,
    state: State,
    /// Named payloads that some release has published.
    examples: &'static [Example],
    /// Parses a payload and serializes it again.
    #[cfg(test)]
    rewrite: fn(&str) -> Result<String, DecodeError>,
}

/// A payload that some release has published: a name for it, its file in `golden`, and the file's
/// content.
pub(super) type Example = (&'static str, &'static str, &'static str);

/// The folder of examples that this release would write differently.
const BEFORE: &str = "before-0.1.0/";

/// The schema of an event's data.
#[derive(Debug, Clone, Copy)]
struct State {
    name: fn() -> Cow<'static, str>,
    schema: fn() -> RefOr<Schema>,
    parts: fn(&mut Vec<(String, RefOr<Schema>)>),
}

impl Documented {
    pub(super) const fn of<E: Event, S: ToSchema + PartialSchema>(
        summary: &'static str,
        examples: &'static [Example],
    ) -> Self {
        Self {
            subject: E::SUBJECT,
            stream: E::STREAM,
            source: E::SOURCE,
            schema_version: E::SCHEMA_VERSION,
            summary,
            state: State { name: S::name, schema: S::schema, parts: S::schemas },
            examples,
            #[cfg(test)]
            rewrite: |data| {
                let event = E::decode(E::SUBJECT, E::SCHEMA_VERSION, data)?;
                Ok(serde_json::to_string(&event).unwrap_or_default())
            },
        }
    }
}

fn documented() -> impl Iterator<Item = &'static Documented> {
    FAMILIES.iter().copied().flatten()
}

/// `/asyncapi.json`: the document.
pub fn routes() -> Router {
    // Built once: the document never changes.
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
                "summary": format!("{} publishes it.", event.source.trim_start_matches('/')),
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
            "description": "Every event that the services publish. Each carries the full state of one \
                ticket or order and its version; of two states, the one with the greater version is \
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
    let current = event.examples.iter().filter(|(_, file, _)| !file.starts_with(BEFORE));
    let examples = current.map(|(name, _, data)| {
        let data: Value = serde_json::from_str(data).unwrap_or_default();
        json!({
            "name": name,
            "payload": {
                "specversion": "1.0",
                "id": "01936b2e-7c00-7000-8000-0000000000e1",
                "source": event.source,
                "type": event.subject,
                "subject": &data["id"],
                "time": &data["updatedAt"],
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
                "subject": text("The id of the ticket or order."),
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
    use std::{
        fs,
        path::{Path, PathBuf},
    };

    use super::*;

    #[test]
    fn payloads_of_every_release_can_be_read_and_are_rewritten_in_todays_form() {
        for event in documented() {
            for (name, file, data) in event.examples {
                let written = (event.rewrite)(data)
                    .unwrap_or_else(|error| panic!("{}, {name}: {error}", event.subject));
                let current = file.strip_prefix(BEFORE).unwrap_or(file);
                let current = fs::read_to_string(golden().join(current)).unwrap();
                assert_eq!(written, current.trim(), "{}, {name}", event.subject);
            }
        }
        for folder in [golden(), golden().join(BEFORE)] {
            for file in fs::read_dir(folder).unwrap() {
                let file = file.unwrap().path();
                let Ok(kept) = fs::read_to_string(&file) else { continue };
                let is_example =
                    |event: &Documented| event.examples.iter().any(|(.., data)| *data == kept);
                assert!(
                    documented().any(is_example),
                    "no event uses the example {}",
                    file.display()
                );
            }
        }
    }

    fn golden() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("src/events/golden")
    }

    #[test]
    fn every_field_of_an_event_appears_in_an_example_of_its_family() {
        for family in FAMILIES {
            let examples: Vec<Value> = family
                .iter()
                .flat_map(|event| event.examples)
                .map(|(.., data)| serde_json::from_str(data).unwrap())
                .collect();
            let schema = serde_json::to_value((family[0].state.schema)()).unwrap();
            for field in schema["properties"].as_object().unwrap().keys() {
                let shown = examples.iter().any(|example| example.get(field).is_some());
                assert!(shown, "no example shows {field}; add a file to golden");
            }
        }
    }

    #[test]
    fn the_document_has_every_subject_of_every_stream_and_no_dangling_reference() {
        let document = document();
        for subject in documented().flat_map(|event| event.stream.subjects) {
            let name = subject.replace(':', "-");
            assert_eq!(document["channels"][&name]["address"], *subject);
            assert_ne!(document["components"]["messages"][&name]["examples"], json!([]));
        }
        let text = document.to_string();
        for reference in text.split(r##""$ref":"#"##).skip(1) {
            let pointer = reference.split('"').next().unwrap();
            assert!(document.pointer(pointer).is_some(), "{pointer} does not exist");
        }
    }
}
