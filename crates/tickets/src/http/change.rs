//! `PUT /api/tickets/{id}`. Optimistic locking: a change applies only to a version that the client
//! names.

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use common::pod::responses::{BodyResponses, CallerResponses};
use common::{
    bus::outbox,
    events::ticket::{Hold, HoldStatus, Ticket, TicketUpdated},
    pod::{auth::Caller, body::Fields, page::PathId, problem::Problem},
};
use sqlx::PgConnection;
use tracing::info;

use super::{
    api::{Api, ticket_body},
    conditional::{self, Tags},
    read::no_ticket,
};
use crate::{
    store::{self, Change},
    ticket::ChangedTicket,
};

/// Change a ticket.
///
/// Replaces title and price of a ticket that you sell, and publishes `ticket:updated`. Send the version
/// that the change is based on, as If-Match (`*` for any version) or as `version` in the body. If the
/// ticket has another version by now, nothing is changed and the answer is 412; while an order holds the
/// ticket, it is 409. A change to the same values also creates a new version.
#[utoipa::path(
    put,
    path = "/api/tickets/{id}",
    tag = "tickets",
    security(("seller" = [])),
    params(
        ("id" = Uuid, Path, description = "The ticket's id."),
        ("If-Match" = Option<String>, Header,
            description = "The version in quotes, as in the ETag of an earlier response; or `*`.",
            example = "\"1\"", pattern = r#"^(\*|(W/)?"[!#-~]*"( *, *(W/)?"[!#-~]*")*)$"#),
    ),
    request_body = ChangedTicket,
    responses(
        (status = 200, description = "The ticket after the change.", body = Ticket,
            headers(("ETag" = String, description = "The ticket's new version in quotes."))),
        (status = 400, description = "The id, If-Match or the body cannot be read, or If-Match and `version` disagree.",
            body = Problem, content_type = "application/problem+json"),
        CallerResponses,
        (status = 403, description = "The ticket belongs to another seller.",
            body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no ticket with this id.",
            body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The ticket is reserved or sold and cannot be changed.",
            body = Problem, content_type = "application/problem+json"),
        (status = 412, description = "The ticket has another version.",
            body = Problem, content_type = "application/problem+json"),
        BodyResponses,
        (status = 422, description = "Fields are invalid, missing or unknown.",
            body = Problem, content_type = "application/problem+json"),
        (status = 428, description = "Neither If-Match nor `version` was sent.",
            body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn change(
    State(api): State<Api>,
    seller: Caller,
    PathId(id): PathId,
    headers: HeaderMap,
    fields: Fields,
) -> Result<Response, Problem> {
    let if_match = conditional::if_match(&headers)?;
    let ChangedTicket { to, version } = ChangedTicket::parse(fields)?;
    let expected = expected(if_match, version)?;

    let seller = api.sellers.seller(&seller);
    let change = async |tx: &mut PgConnection| {
        let ticket = match store::change(tx, id, seller, &to, expected.as_deref()).await? {
            Change::Made(ticket) => ticket,
            Change::Stale(version) => return Err(stale(version)),
            Change::NotYours(seller) => return Err(not_yours(seller.as_deref())),
            Change::Held(hold) => return Err(held(hold)),
            Change::NoTicket => return Err(no_ticket()),
        };
        let event = TicketUpdated(ticket);
        let event_id = outbox::put(tx, &event).await?;
        Ok((event, event_id))
    };
    let (event, event_id) = api.pool.transaction(change).await?;
    api.wake.wake();

    info!(
        notice = "ticket_updated",
        ticket.id = %id,
        ticket.version = event.0.version,
        event.id = %event_id,
        "ticket updated",
    );
    ticket_body(StatusCode::OK, &event.0)
}

/// The versions that the change may be based on; `None` for any.
fn expected(if_match: Option<Tags>, version: Option<i32>) -> Result<Option<Vec<i32>>, Problem> {
    match (if_match, version) {
        (None, None) => Err(Problem::new(
            StatusCode::PRECONDITION_REQUIRED,
            "Specify the version that the change is based on, in If-Match or as version in the body.",
        )),
        (Some(tags), Some(version)) if !tags.contain(version) => Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "If-Match and version name different versions.",
        )),
        (_, Some(version)) => Ok(Some(vec![version])),
        (Some(Tags::Versions(versions)), None) => Ok(Some(versions)),
        (Some(Tags::Any), None) => Ok(None),
    }
}

/// 403, not 404: tickets are public, so this reveals nothing.
fn not_yours(seller: Option<&str>) -> Problem {
    let detail = match seller {
        Some(_) => "This ticket belongs to another seller.",
        None => "This ticket is from before tickets had sellers, so no seller may change it.",
    };
    Problem::new(StatusCode::FORBIDDEN, detail)
}

fn stale(version: i32) -> Problem {
    Problem::new(
        StatusCode::PRECONDITION_FAILED,
        format!("The ticket is now at version {version}; nothing was changed."),
    )
}

/// 409, whichever version the change was based on: the newest would be refused as well.
fn held(hold: Hold) -> Problem {
    let detail = match hold.status {
        HoldStatus::Reserved => {
            "The ticket is reserved by an order; it can be changed once that is cancelled or has expired."
        }
        HoldStatus::Sold => "The ticket is sold; it can no longer be changed.",
    };
    Problem::new(StatusCode::CONFLICT, detail)
}
