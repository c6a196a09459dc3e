//! Publishes an event, or any bytes, directly to a stream, bypassing the services and their databases.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use async_nats::jetstream::message::PublishMessage;
use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use common::{
    bus::envelope,
    events::{
        Event, EventSet,
        ticket::{Ticket, TicketCreated, TicketUpdated},
    },
    pod::problem::Problem,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tracing::info;
use uuid::Uuid;

use super::failed;
use crate::Console;

/// How long NATS may take to answer a request, as in the bus.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// What to publish.
#[derive(Debug, Deserialize)]
pub(super) struct Publication {
    subject: String,
    payload: String,
    #[serde(default, rename = "as")]
    kind: Kind,
}

/// What the payload is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    /// A ticket as JSON, to make an event of.
    Ticket,
    /// The exact bytes to store.
    #[default]
    Bytes,
}

pub(super) async fn publish(
    State(console): State<Console>,
    Json(wanted): Json<Publication>,
) -> Response {
    let invalid = |why: String| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, why).into_response();
    // Only subjects of a stream: the console must not send messages to members or to the server.
    let stored = async {
        let report = console.nats.report().await?;
        let mut streams = report.streams.into_iter().map(|stream| stream.info.config);
        anyhow::Ok(streams.any(|stream| stream.subjects.contains(&wanted.subject)))
    };
    match stored.await {
        Ok(true) => {}
        Ok(false) => return invalid("No stream stores this subject.".to_owned()),
        Err(error) => return failed(&error),
    }
    let message = match wanted.kind {
        Kind::Bytes => PublishMessage::build().payload(wanted.payload.into()),
        Kind::Ticket => match event(&wanted.subject, &wanted.payload) {
            Ok(message) => message,
            Err(error) => return invalid(format!("{error:#}.")),
        },
    };
    match send(&console, wanted.subject, message).await {
        Ok(sequence) => {
            Json(json!({ "status": 201, "body": { "sequence": sequence } })).into_response()
        }
        Err(error) => failed(&error),
    }
}

/// Publishes a message and waits until it is stored. Returns its sequence.
pub(super) async fn send(
    console: &Console,
    subject: String,
    message: PublishMessage,
) -> anyhow::Result<u64> {
    let jetstream = &console.nats.bus().jetstream;
    let stored = async {
        let sent = jetstream.send_publish(subject.clone(), message);
        anyhow::Ok(sent.await?.await?.sequence)
    };
    let stored = tokio::time::timeout(REQUEST_TIMEOUT * 2, stored);
    let sequence = stored.await.context("NATS did not confirm the event in time")??;
    info!(subject, sequence, "published from the console");
    Ok(sequence)
}

/// An event of this subject about this ticket.
fn event(subject: &str, ticket: &str) -> anyhow::Result<PublishMessage> {
    let (id, now) = (Uuid::now_v7(), OffsetDateTime::now_utc());
    let encoded = match subject {
        TicketCreated::SUBJECT => envelope::encode(id, now, &TicketCreated(ticket_of(ticket)?))?,
        TicketUpdated::SUBJECT => envelope::encode(id, now, &TicketUpdated(ticket_of(ticket)?))?,
        _ => bail!("only its service publishes events of {subject}; publish bytes instead"),
    };
    Ok(PublishMessage::build()
        .header("content-type", envelope::CONTENT_TYPE)
        .message_id(id.to_string())
        .payload(encoded.into()))
}

/// The ticket in this JSON. Fills in id, version, times and seller if they are missing.
///
/// # Errors
/// It is not JSON, not an object, or no ticket.
pub fn ticket_of(payload: &str) -> anyhow::Result<Ticket> {
    let given: Value = serde_json::from_str(payload).context("the payload is not JSON")?;
    let Value::Object(given) = given else { bail!("the payload is not a JSON object") };
    let now = OffsetDateTime::now_utc().format(&Rfc3339)?;
    let made_up = json!({
        "id": Uuid::now_v7(), "version": 1, "createdAt": now, "updatedAt": now,
        "seller": "publisher",
    });
    let mut ticket = Map::new();
    ticket.extend(made_up.as_object().cloned().unwrap_or_default());
    // Also accepts the names used before 0.1.0.
    for (old, new) in [("created_at", "createdAt"), ("updated_at", "updatedAt")] {
        if given.contains_key(old) {
            ticket.remove(new);
        }
    }
    ticket.extend(given);
    let text = serde_json::to_string(&ticket)?;
    let created =
        TicketCreated::decode(TicketCreated::SUBJECT, TicketCreated::SCHEMA_VERSION, &text)
            .map_err(|error| {
                // Leaves out the position: it is one in `text`, which the person has not seen.
                let why = error.to_string();
                let why = why.split(" at line").next().unwrap_or_default();
                anyhow!("the payload is not a ticket: {why}")
            })?;
    Ok(created.0)
}
