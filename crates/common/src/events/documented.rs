//! Events as documented: their names, schema and examples, declared with [`family!`](crate::family), and which of
//! them a service publishes and receives.

use std::{borrow::Cow, collections::BTreeSet};

use bus::{Event, EventSet, Listener, Stream};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};

/// An event, as documented.
#[derive(Debug, Clone, Copy)]
pub struct Documented {
    pub(super) subject: &'static str,
    pub(super) stream: &'static Stream,
    pub(super) source: &'static str,
    pub(super) schema_version: u32,
    pub(super) summary: &'static str,
    pub(super) state: State,
    pub(super) examples: &'static [Example],
    /// Parses a payload and serializes it again.
    rewrite: fn(&str) -> Result<String, String>,
}

/// A payload that some release has published: a name for it, its file in the folder `golden`, and the file's
/// content. A file in a folder inside `golden` is a payload that this release would write differently, as the file
/// of the same name in `golden`.
pub type Example = (&'static str, &'static str, &'static str);

/// The schema of an event's data.
#[derive(Debug, Clone, Copy)]
pub(super) struct State {
    pub(super) name: fn() -> Cow<'static, str>,
    pub(super) schema: fn() -> RefOr<Schema>,
    pub(super) parts: fn(&mut Vec<(String, RefOr<Schema>)>),
}

impl Documented {
    /// The event `E`, whose data is `S`.
    #[must_use]
    pub const fn of<E: Event, S: ToSchema + PartialSchema>(
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
            rewrite: |data| {
                let event = E::decode(E::SUBJECT, E::SCHEMA_VERSION, data);
                let event = event.map_err(|error| error.to_string())?;
                serde_json::to_string(&event).map_err(|error| error.to_string())
            },
        }
    }

    /// The examples that this release would write, as name and JSON.
    pub(super) fn current_examples(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let current = self.examples.iter().filter(|(_, file, _)| !file.contains('/'));
        current.map(|(name, _, data)| (*name, *data))
    }
}

/// The events that a service publishes and receives.
#[derive(Debug, Clone, Copy)]
pub struct ServiceEvents {
    /// The events that it publishes.
    pub published: &'static [Documented],
    /// The queue group that it is a member of.
    pub queue_group: &'static str,
    /// The subjects of the events that the group receives.
    pub received: &'static [&'static str],
}

impl ServiceEvents {
    /// The events of a service with this listener.
    #[must_use]
    pub const fn of<L: Listener>(published: &'static [Documented]) -> Self {
        let received = <L::Events as EventSet>::SUBJECTS;
        Self { published, queue_group: L::QUEUE_GROUP, received }
    }

    /// The streams that it publishes to, each once.
    pub fn streams(&self) -> impl Iterator<Item = &'static Stream> + use<> {
        let mut seen = BTreeSet::new();
        let streams = self.published.iter().map(|event| event.stream);
        streams.filter(move |stream| seen.insert(stream.name))
    }
}

/// The faults of the examples of a family of events, one line each: an example that this release cannot read or
/// would write differently, or a field that no example shows. Assert in a test that there is none.
#[must_use]
pub fn faults(family: &[Documented]) -> Vec<String> {
    unreadable(family).chain(unshown(family)).collect()
}

pub(super) fn unreadable(family: &[Documented]) -> impl Iterator<Item = String> {
    let examples = family.iter().flat_map(|event| event.examples);
    let current = move |name: &str| {
        let mut found = examples.clone().filter(|(_, file, _)| *file == name);
        found.next().map(|(.., data)| data.trim())
    };
    family.iter().flat_map(move |event| {
        let current = current.clone();
        event.examples.iter().filter_map(move |(name, file, data)| {
            let written = match (event.rewrite)(data) {
                Ok(written) => written,
                Err(error) => return Some(format!("{}, {name}: {error}", event.subject)),
            };
            let file = file.rsplit('/').next().unwrap_or(file);
            let wrong = current(file) != Some(written.as_str());
            wrong.then(|| format!("{}, {name}: is not {file}: {written}", event.subject))
        })
    })
}

pub(super) fn unshown(family: &[Documented]) -> Vec<String> {
    let examples = family.iter().flat_map(|event| event.examples);
    let examples: Vec<serde_json::Value> =
        examples.filter_map(|(.., data)| serde_json::from_str(data).ok()).collect();
    let schema = family.first().and_then(|event| serde_json::to_value((event.state.schema)()).ok());
    let fields = schema.as_ref().and_then(|schema| schema["properties"].as_object());
    let fields = fields.into_iter().flat_map(|fields| fields.keys());
    fields
        .filter(|field| examples.iter().all(|example| example.get(field).is_none()))
        .map(|field| format!("no example shows {field}: add a file to golden"))
        .collect()
}
