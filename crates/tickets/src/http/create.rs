//! `POST /api/tickets`. One transaction stores the ticket, its event and the answer kept for a
//! repetition.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, header},
    response::Response,
};
use common::pod::responses::{BodyResponses, CallerResponses};
use common::{
    bus::outbox,
    events::ticket::{Ticket, TicketCreated},
    pod::{
        auth::Caller,
        body::Fields,
        idempotency::{self, Answer, IdempotentRequest, Outcome},
        problem::Problem,
    },
};
use sqlx::PgConnection;
use tracing::info;

use super::api::{Api, body_of, etag};
use crate::{
    group_commit::{self, PreparedTicket},
    ticket::NewTicket,
};

/// The path of the tickets.
const PATH: &str = "/api/tickets";
/// Every answer to a POST, replayed ones included, shows the ticket's first version.
const FIRST_VERSION: i32 = 1;

/// Create a ticket.
///
/// Only its seller may change it. Publishes `ticket:created`. With an Idempotency-Key, a repetition within 24
/// hours of a request that was answered 201 gets the same response and creates no second ticket. Requests
/// are the same if their title (after trimming) and price are.
#[utoipa::path(
    post,
    path = "/api/tickets",
    tag = "tickets",
    security(("seller" = [])),
    params(("Idempotency-Key" = Option<String>, Header)),
    request_body = NewTicket,
    responses(
        (status = 201, description = "The ticket was created, by this request or the first one with this Idempotency-Key.",
            body = Ticket,
            headers(
                ("Location" = String, description = "The ticket's path."),
                ("ETag" = String, description = "The ticket's version in quotes."),
                ("Idempotency-Replayed" = bool, description = "`true` when the first request's answer is repeated."),
            )),
        (status = 400, description = "The body is not a JSON object, or a header is malformed.",
            body = Problem, content_type = "application/problem+json"),
        CallerResponses,
        (status = 409, description = "The first request with this Idempotency-Key is still under way.",
            body = Problem, content_type = "application/problem+json"),
        BodyResponses,
        (status = 422, description = "Fields are invalid, missing or unknown; or this Idempotency-Key was used with a different request.",
            body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn create(
    State(api): State<Api>,
    seller: Caller,
    headers: HeaderMap,
    fields: Fields,
) -> Result<Response, Problem> {
    let key = idempotency::key(&headers)?;
    let new = NewTicket::parse(fields)?;

    let request = match key {
        None => None,
        Some(key) => {
            let canonical = new.canonical().map_err(|error| Problem::internal(&error.into()))?;
            // A client may retry a request that it first sent before the upgrade.
            Some(IdempotentRequest::new(seller.own_key(&key), &canonical).or_previous_key(key))
        }
    };

    let prepared = Arc::new(prepare(new.into_ticket(&seller))?);
    let alone = async |tx: &mut PgConnection| {
        group_commit::insert(tx, &[&prepared]).await?;
        Ok((prepared.answer.clone(), prepared.event.id))
    };
    let outcome = api.group_commit.once(request.as_ref(), prepared.clone(), alone).await?;
    match outcome {
        Outcome::Replayed(answer) => Ok(tagged(answer.replayed(PATH))),
        Outcome::Made(answer, event_id) => {
            info!(
                notice = "ticket_created",
                ticket.id = %answer.resource_id,
                event.id = %event_id,
                "ticket created",
            );
            Ok(tagged(answer.created(PATH)))
        }
    }
}

/// Prepares the event in the request's trace, and the answer.
fn prepare(ticket: Ticket) -> Result<PreparedTicket, Problem> {
    let answer = Answer { resource_id: ticket.id, body: body_of(&ticket)? };
    let created = TicketCreated(ticket);
    let event = outbox::prepare(&created)?;
    Ok(PreparedTicket { ticket: created.0, event, answer })
}

/// Adds the ETag of the new ticket.
fn tagged(mut response: Response) -> Response {
    response.headers_mut().insert(header::ETAG, etag(FIRST_VERSION));
    response
}
