//! `POST /api/tickets`. One transaction stores the ticket, its event and the answer kept for a
//! repetition.

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
        idempotency::{self, Answer, IdempotentRequest, Outcome, once},
        problem::Problem,
    },
};
use sqlx::PgConnection;
use tracing::info;
use uuid::Uuid;

use super::{Api, body_of, etag};
use crate::{store, ticket::NewTicket};

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
    params((
        "Idempotency-Key" = Option<String>, Header,
        description = "Identifies the request when the seller retries it: 1-255 visible ASCII characters.",
        min_length = 1, max_length = 255, pattern = "^[!-~]{1,255}$"
    )),
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

    let outcome = match key {
        None => without_key(&api, new.into_ticket(&seller)).await?,
        Some(key) => {
            let canonical = new.canonical().map_err(|error| Problem::internal(&error.into()))?;
            // A client may retry a request that it first sent before the upgrade.
            let request = IdempotentRequest::new(seller.own_key(&key), &canonical).or_before(key);
            // With a key, a ticket gets its own transaction: it holds the key's lock until it ends.
            let make = async |tx: &mut PgConnection| {
                let ticket = new.into_ticket(&seller);
                let answer = Answer { resource_id: ticket.id, body: body_of(&ticket)? };
                store::insert(tx, [&ticket]).await?;
                let event_id = outbox::put(tx, &TicketCreated(ticket)).await?;
                Ok((answer, event_id))
            };
            let outcome = once(&api.pool, Some(&request), make).await?;
            if matches!(outcome, Outcome::Made(..)) {
                api.wake.wake();
            }
            outcome
        }
    };
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

/// Without a key, a ticket may share its transaction with others. Returns the event's id too.
async fn without_key(api: &Api, ticket: Ticket) -> Result<Outcome<Uuid>, Problem> {
    let answer = Answer { resource_id: ticket.id, body: body_of(&ticket)? };
    let event_id = api.group_commit.create(ticket).await?;
    Ok(Outcome::Made(answer, event_id))
}

/// Adds the ETag of the new ticket.
fn tagged(mut response: Response) -> Response {
    response.headers_mut().insert(header::ETAG, etag(FIRST_VERSION));
    response
}
