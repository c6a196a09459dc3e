//! The spans of an event on its way, by OpenTelemetry's conventions for messaging
//! (<https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/>):
//!
//! - `create` (producer): a service stores the event. The envelope carries this span's context.
//! - `send` (client): the relay publishes the event, and the stream confirms it.
//! - `process` (consumer): a member has it, from the decoded message to the answer.
//! - `transaction` (client): a transaction on Postgres.
//!
//! `send` and `process` are children of `create`. Where events share a publication or a transaction, each has a
//! span of it in its own trace, with the number of events that share it, so that each trace is complete.
//!
//! While nothing records spans, none of this makes one.

use serde::Deserialize;
use sqlx::postgres::PgConnectOptions;
use tracing::{Span, field::Empty, info_span};
use uuid::Uuid;

use crate::{
    client_id::ClientId,
    trace::{SPANS, TraceContext, is_traced},
};

/// The system in OpenTelemetry's terms.
const NATS: &str = "nats";
/// `error.type` where an error has no class of its own.
const OTHER: &str = "_OTHER";

/// A span of an event, with the fields that all three kinds have in common. Its operation is its name.
macro_rules! event_span {
    ($operation:literal, $kind:literal, $subject:expr, $id:expr $(, $($fields:tt)+)?) => {
        info_span!(
            target: SPANS,
            parent: None,
            $operation,
            otel.name = format!(concat!($operation, " {}"), $subject),
            otel.kind = $kind,
            otel.status_code = Empty,
            otel.status_description = Empty,
            error.r#type = Empty,
            messaging.system = NATS,
            messaging.operation.name = $operation,
            "messaging.operation.type" = $operation,
            messaging.destination.name = $subject,
            messaging.message.id = %$id,
            $($($fields)+)?
        )
    };
}

/// Creates the span of an event that is being stored. `None` outside of a trace, or while none is recorded.
pub(crate) fn create(subject: &str, id: Uuid) -> Option<TraceContext> {
    let parent = TraceContext::current()?;
    let span = event_span!("create", "producer", subject, id);
    (!span.is_disabled()).then(|| TraceContext::of_span(&span, Some(parent)))
}

/// Of an envelope, only its trace.
#[derive(Deserialize)]
struct Traced<'a> {
    #[serde(borrow)]
    traceparent: Option<&'a str>,
}

/// Starts the spans of events (subjects, ids and envelopes) that are published together, one in the trace of each
/// that has one. The spans end when they are dropped.
pub(crate) fn send<'a>(
    events: impl ExactSizeIterator<Item = (&'a str, Uuid, &'a str)>,
) -> Vec<Span> {
    if !is_traced() {
        return Vec::new();
    }
    let together = (events.len() > 1).then_some(events.len());
    let spans = events.filter_map(|(subject, id, envelope)| {
        let envelope: Traced<'_> = serde_json::from_str(envelope).ok()?;
        let parent = envelope.traceparent?.parse().ok()?;
        let span =
            event_span!("send", "client", subject, id, messaging.batch.message_count = together);
        TraceContext::place(&span, parent);
        Some(span)
    });
    spans.collect()
}

/// Starts the span of a member's work on an event that was created in this context. It ends when it is dropped.
pub(crate) fn process(
    subject: &str,
    id: Uuid,
    group: &str,
    client_id: &ClientId,
    created: Option<TraceContext>,
) -> (Span, Option<TraceContext>) {
    let span = event_span!(
        "process",
        "consumer",
        subject,
        id,
        messaging.consumer.group.name = group,
        messaging.client.id = %client_id
    );
    let context = if span.is_disabled() {
        created.map(TraceContext::child)
    } else {
        Some(TraceContext::of_span(&span, created))
    };
    (span, context)
}

/// Starts the spans of a transaction on this database, one in each of these traces. They end when they are dropped.
pub(crate) fn transactions(
    database: &PgConnectOptions,
    traces: impl ExactSizeIterator<Item = Option<TraceContext>>,
) -> Vec<Span> {
    if !is_traced() {
        return Vec::new();
    }
    let together = (traces.len() > 1).then_some(traces.len());
    traces.flatten().map(|trace| transaction(database, trace, together)).collect()
}

/// Starts the span of a transaction on this database in a trace. `together` events take effect in it.
pub(crate) fn transaction(
    database: &PgConnectOptions,
    trace: TraceContext,
    together: Option<usize>,
) -> Span {
    let database = database.get_database().unwrap_or_default();
    let span = info_span!(
        target: SPANS,
        parent: None,
        "transaction",
        otel.name = format!("transaction {database}"),
        otel.kind = "client",
        otel.status_code = Empty,
        otel.status_description = Empty,
        error.r#type = Empty,
        db.system.name = "postgresql",
        db.namespace = database,
        db.operation.name = "transaction",
        messaging.batch.message_count = together,
    );
    TraceContext::place(&span, trace);
    span
}

/// Marks these spans as failed.
pub(crate) fn failed<'a>(spans: impl IntoIterator<Item = &'a Span>, error: &dyn std::fmt::Display) {
    for span in spans.into_iter().filter(|span| !span.is_disabled()) {
        span.record("otel.status_code", "ERROR");
        span.record("otel.status_description", error.to_string());
        span.record("error.type", OTHER);
    }
}
