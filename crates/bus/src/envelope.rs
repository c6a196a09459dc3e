//! An event on the wire: CloudEvents 1.0 in structured JSON
//! (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>).

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    event::{Event, Stream},
    trace::TraceContext,
};

/// The `content-type` header of a structured CloudEvent.
pub const CONTENT_TYPE: &str = "application/cloudevents+json";

/// The largest event, in bytes of its envelope: a quarter of what a NATS server accepts by default. An event
/// that the server refuses would block all events behind it.
pub const MAX_BYTES: usize = 256 * 1024;

/// One event with the attributes that carry it. Unknown attributes are ignored, as the specification
/// requires.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Envelope<'a> {
    specversion: Cow<'a, str>,
    /// The event's id: the idempotency key everywhere, and the `Nats-Msg-Id`.
    pub id: Uuid,
    /// The publisher.
    pub source: Cow<'a, str>,
    /// The event's type, which is its NATS subject.
    #[serde(rename = "type")]
    pub kind: Cow<'a, str>,
    /// The id of its entity.
    #[serde(default)]
    pub subject: Cow<'a, str>,
    /// When it happened.
    #[serde(with = "crate::rfc3339")]
    pub time: OffsetDateTime,
    #[serde(default)]
    datacontenttype: Cow<'a, str>,
    dataschema: Cow<'a, str>,
    /// Its trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<Cow<'a, str>>,
    /// The payload as JSON text.
    #[serde(borrow)]
    pub data: &'a RawValue,
}

/// Why bytes are not an envelope.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// Not JSON, or an attribute is missing or malformed.
    #[error("not a CloudEvent in structured JSON: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A major version of CloudEvents that is not 1.
    #[error("CloudEvents specversion is {0:?}, expected 1.0")]
    SpecVersion(String),
    /// `dataschema` is not the stream's prefix, then `<type>:<version>`.
    #[error("dataschema {0:?} does not name a schema version of {1:?}")]
    Schema(String, String),
}

impl<'a> Envelope<'a> {
    /// Parses an envelope.
    ///
    /// # Errors
    /// When the bytes are not a CloudEvent of version 1.0.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, EnvelopeError> {
        let envelope: Self = serde_json::from_slice(bytes)?;
        if envelope.specversion != "1.0" {
            return Err(EnvelopeError::SpecVersion(envelope.specversion.into_owned()));
        }
        Ok(envelope)
    }

    /// The version of the payload's schema, for an event of this stream.
    ///
    /// # Errors
    /// When `dataschema` does not name one.
    pub fn schema_version(&self, stream: &Stream) -> Result<u32, EnvelopeError> {
        self.dataschema
            .strip_prefix(stream.schema_prefix)
            .and_then(|rest| rest.strip_prefix(&*self.kind))
            .and_then(|rest| rest.strip_prefix(':'))
            .and_then(|version| version.parse().ok())
            .ok_or_else(|| {
                EnvelopeError::Schema(self.dataschema.to_string(), self.kind.to_string())
            })
    }
}

/// Serializes an event's envelope, as part of the current trace.
///
/// # Errors
/// When the event does not serialize.
pub fn encode<E: Event>(
    id: Uuid,
    time: OffsetDateTime,
    event: &E,
) -> Result<String, serde_json::Error> {
    let data = serde_json::value::to_raw_value(event)?;
    serde_json::to_string(&Envelope {
        specversion: "1.0".into(),
        id,
        source: E::SOURCE.into(),
        kind: E::SUBJECT.into(),
        subject: event.entity_id().into(),
        time,
        datacontenttype: "application/json".into(),
        dataschema: E::STREAM.data_schema(E::SUBJECT, E::SCHEMA_VERSION).into(),
        traceparent: TraceContext::current().map(|trace| trace.to_string().into()),
        data: &data,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARCELS: Stream =
        Stream { name: "PARCELS", subjects: &["parcel:sent"], schema_prefix: "urn:example:event:" };

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct ParcelSent {
        number: u64,
    }

    impl Event for ParcelSent {
        const SUBJECT: &'static str = "parcel:sent";
        const STREAM: &'static Stream = &PARCELS;
        const SCHEMA_VERSION: u32 = 1;
        const SOURCE: &'static str = "/parcels";

        fn entity_id(&self) -> String {
            self.number.to_string()
        }
    }

    #[test]
    fn an_encoded_event_parses_to_what_was_encoded() {
        let event = ParcelSent { number: 7 };
        let id = Uuid::now_v7();
        let encoded = encode(id, OffsetDateTime::UNIX_EPOCH, &event).unwrap();
        let open = Envelope::parse(encoded.as_bytes()).unwrap();
        assert_eq!((open.id, &*open.kind, &*open.source), (id, "parcel:sent", "/parcels"));
        assert_eq!(open.subject, "7");
        assert_eq!(open.schema_version(&PARCELS).unwrap(), 1);
        assert_eq!(serde_json::from_str::<ParcelSent>(open.data.get()).unwrap(), event);
    }

    #[test]
    fn an_invalid_envelope_is_refused_with_the_reason() {
        for (bytes, reason) in [
            ("hello", "not a CloudEvent in structured JSON"),
            (r#"{"specversion":"1.0"}"#, "missing field `id`"),
        ] {
            let error = Envelope::parse(bytes.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
