//! `POST /api/tickets`: the ticket, its event and the answer kept for a repetition become true in
//! one transaction, or none of them does.

use axum::{
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};
use common::{
    bus::outbox,
    events::ticket::{Ticket, TicketCreated},
    pod::{body::Fields, problem::Problem, trace::TraceContext},
};
use tracing::info;
use uuid::Uuid;

use super::{Api, body_of, idempotency_key, json};
use crate::{
    store::{self, Claim},
    ticket::NewTicket,
};

const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Every answer of a POST, the replayed as well, is of the ticket's first version.
const FIRST_VERSION: i32 = 1;

/// Create a ticket.
///
/// Publishes `ticket:created`. With an Idempotency-Key, a repetition of the request within 24
/// hours is answered as the first one was, and makes no second ticket. Requests are the same when
/// their title (after trimming) and price are.
#[utoipa::path(
    post,
    path = "/api/tickets",
    tag = "tickets",
    params((
        "Idempotency-Key" = Option<String>, Header,
        description = "The client's name for this request: 1-255 visible ASCII characters.",
        min_length = 1, max_length = 255, pattern = "^[!-~]{1,255}$"
    )),
    request_body = NewTicket,
    responses(
        (status = 201, description = "The ticket was created, now or by the first request with this Idempotency-Key.",
            body = Ticket,
            headers(
                ("Location" = String, description = "The ticket's path."),
                ("ETag" = String, description = "The ticket's version in quotes."),
                ("Idempotency-Replayed" = bool, description = "`true` when the first request's answer is repeated."),
            )),
        (status = 400, description = "The body is not a JSON object, or Idempotency-Key is malformed.",
            body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The first request with this Idempotency-Key is still under way.",
            body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is larger than 16 KiB.",
            body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is not sent as application/json.",
            body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Fields are wrong, missing or unknown; or this Idempotency-Key came with another request.",
            body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn create(
    State(api): State<Api>,
    headers: HeaderMap,
    fields: Fields,
) -> Result<Response, Problem> {
    let key = idempotency_key::of(&headers)?;
    let new = NewTicket::parse(fields)?;

    let created = match key {
        None => Created::without_key(&api, new.into_ticket()).await?,
        Some(key) => match with_key(&api, &key, new).await? {
            Keyed::Created(created) => created,
            Keyed::Before { ticket_id, answer } => return Ok(replayed(ticket_id, answer)),
        },
    };
    info!(
        ticket.id = %created.ticket_id,
        event.id = %created.event_id,
        trace.id = TraceContext::current().map(|trace| trace.trace_id()),
        "ticket created",
    );
    Ok(answer(created.ticket_id, created.body))
}

/// A ticket that was committed with its event, and the body that says so.
struct Created {
    ticket_id: Uuid,
    event_id: Uuid,
    body: String,
}

impl Created {
    /// Without a key, a ticket may share its transaction with others.
    async fn without_key(api: &Api, ticket: Ticket) -> Result<Self, Problem> {
        let (ticket_id, body) = (ticket.id, body_of(&ticket)?);
        let event_id = api.group_commit.create(ticket).await?;
        Ok(Self { ticket_id, event_id, body })
    }
}

/// What became of a request with an Idempotency-Key.
enum Keyed {
    Created(Created),
    Before { ticket_id: Uuid, answer: String },
}

/// With a key, a ticket has a transaction of its own: the key is claimed for as long as it lasts.
async fn with_key(api: &Api, key: &str, new: NewTicket) -> Result<Keyed, Problem> {
    let hash = new.hash();
    let mut tx = api.pool.begin().await?;
    let known = match store::claim_key(&mut tx, key, &hash).await? {
        Claim::Granted => None,
        Claim::Answered { ticket_id, answer } => Some(Ok(Keyed::Before { ticket_id, answer })),
        Claim::InFlight => Some(Err(in_flight())),
        Claim::OtherRequest => Some(Err(other_request())),
    };
    if let Some(answer) = known {
        // Before the answer: dropped, the transaction would hold the key for a moment longer, and
        // a client that is quick would meet itself.
        tx.rollback().await?;
        return answer;
    }
    let ticket = new.into_ticket();
    let (ticket_id, body) = (ticket.id, body_of(&ticket)?);
    store::insert(&mut tx, [&ticket]).await?;
    let event_id = outbox::put(&mut tx, &TicketCreated(ticket)).await?;
    store::keep_answer(&mut tx, key, &hash, ticket_id, &body).await?;
    tx.commit().await?;
    api.wake.wake();
    Ok(Keyed::Created(Created { ticket_id, event_id, body }))
}

fn answer(ticket_id: Uuid, body: String) -> Response {
    let mut response = json(StatusCode::CREATED, FIRST_VERSION, body);
    if let Ok(location) = HeaderValue::from_str(&format!("/api/tickets/{ticket_id}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

fn replayed(ticket_id: Uuid, body: String) -> Response {
    let mut response = answer(ticket_id, body);
    response.headers_mut().insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    response
}

fn in_flight() -> Problem {
    Problem::new(
        StatusCode::CONFLICT,
        "The first request with this Idempotency-Key is still under way. Repeat this one later.",
    )
}

fn other_request() -> Problem {
    Problem::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "This Idempotency-Key came before with another title or price.",
    )
}
