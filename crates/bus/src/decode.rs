//! Decodes messages to events.

use tracing::{Span, error_span};
use uuid::Uuid;

use crate::{
    client_id::ClientId,
    envelope::{Envelope, MAX_BYTES},
    event::EventSet,
    inbox::Claim,
    listener::{Listener, Received},
    spans,
    text::shortened,
};

/// A decoded message.
pub(crate) struct Decoded<E> {
    pub(crate) received: Received<E>,
    pub(crate) claim: Claim,
    /// The id of its entity.
    pub(crate) entity_id: String,
    /// The span of the work on it, until it is answered.
    pub(crate) process: Span,
}

/// A message that cannot be decoded, now or later.
pub(crate) struct Undecodable {
    /// Why: a short text, whatever the message holds.
    pub(crate) reason: String,
    /// Whether a member of a newer release may be able to.
    pub(crate) newer: bool,
}

/// Decodes a message for a listener.
///
/// # Errors
/// Why the listener can never take it.
pub(crate) fn decode<L: Listener>(
    subject: &str,
    payload: &[u8],
    client_id: &ClientId,
) -> Result<Decoded<L::Events>, Undecodable> {
    let read = read::<L::Events>(subject, payload, client_id)
        .map_err(|bad| Undecodable { reason: shortened(&bad.reason), ..bad })?;
    let (id, group, created) = (read.claim.id, L::QUEUE_GROUP, read.received.trace());
    let (process, trace) = spans::process(subject, id, group, client_id, created);
    let span = log_span(id, subject, group, client_id, trace.map(|trace| trace.trace_id()));
    Ok(Decoded { received: read.received.in_span(span, trace), process, ..read })
}

/// The span of all log lines about an event, at any level.
pub(crate) fn log_span(
    id: Uuid,
    subject: &str,
    group: &str,
    client_id: &ClientId,
    trace_id: Option<String>,
) -> Span {
    error_span!(
        parent: None,
        "event",
        event.id = %id,
        event.r#type = subject,
        trace.id = trace_id,
        queue.group = group,
        client.id = %client_id,
    )
}

impl From<String> for Undecodable {
    fn from(reason: String) -> Self {
        Self { reason, newer: false }
    }
}

fn read<E: EventSet>(
    subject: &str,
    payload: &[u8],
    client_id: &ClientId,
) -> Result<Decoded<E>, Undecodable> {
    if payload.len() > MAX_BYTES {
        return Err(format!("it has {} bytes, the limit is {MAX_BYTES}", payload.len()).into());
    }
    let envelope = Envelope::parse(payload).map_err(|error| error.to_string())?;
    if envelope.kind != subject {
        return Err(format!("its type {:?} is not its subject {subject:?}", envelope.kind).into());
    }
    let version = envelope.schema_version(E::STREAM).map_err(|error| error.to_string())?;
    let event = E::decode(&envelope.kind, version, envelope.data.get()).map_err(|error| {
        Undecodable { reason: error.to_string(), newer: error.is_of_a_newer_release() }
    })?;
    let at = E::SUBJECTS.iter().position(|known| *known == subject);
    if let Some(expected) = at.and_then(|at| E::SOURCES.get(at))
        && envelope.source != *expected
    {
        return Err(format!("its source is {:?}, expected {expected:?}", envelope.source).into());
    }
    let created = envelope.traceparent.as_deref().and_then(|text| text.parse().ok());
    let (id, time, entity_id) = (envelope.id, envelope.time, envelope.subject.into_owned());
    let received = Received::new(id, time, client_id.to_string(), event);
    let received = received.in_span(Span::none(), created);
    Ok(Decoded { received, claim: Claim::new(id, payload), entity_id, process: Span::none() })
}
