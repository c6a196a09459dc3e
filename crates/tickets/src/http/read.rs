//! `GET /api/tickets/{id}`.

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use common::{
    events::ticket::Ticket,
    pod::{page::PathId, problem::Problem},
};
use sqlx::PgConnection;

use super::{
    api::{Api, etag, ticket_body},
    conditional,
};
use crate::store;

/// A client may cache the ticket, but must revalidate it before each use.
const REVALIDATE: HeaderValue = HeaderValue::from_static("private, no-cache");

/// Read a ticket.
#[utoipa::path(
    get,
    path = "/api/tickets/{id}",
    tag = "tickets",
    params(
        ("id" = Uuid, Path, description = "The ticket's id."),
        ("If-None-Match" = Option<String>, Header,
            description = "A version in quotes, as in the ETag of an earlier response; or `*`.",
            pattern = r#"^(\*|(W/)?"[!#-~]*"( *, *(W/)?"[!#-~]*")*)$"#),
    ),
    responses(
        (status = 200, description = "The ticket.", body = Ticket,
            headers(("ETag" = String, description = "The ticket's version in quotes."))),
        (status = 304, description = "The ticket still has the version of If-None-Match.",
            headers(("ETag" = String, description = "The ticket's version in quotes."))),
        (status = 400, description = "The id or If-None-Match cannot be read.",
            body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no ticket with this id.",
            body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn read(
    State(api): State<Api>,
    PathId(id): PathId,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let known = conditional::if_none_match(&headers)?;
    let find = async |connection: &mut PgConnection| store::find(connection, id).await;
    let ticket = api.pool.run(find).await?.ok_or_else(no_ticket)?;
    let mut response = match known {
        Some(tags) if tags.contain(ticket.version) => {
            (StatusCode::NOT_MODIFIED, [(header::ETAG, etag(ticket.version))]).into_response()
        }
        _ => ticket_body(StatusCode::OK, &ticket)?,
    };
    response.headers_mut().insert(header::CACHE_CONTROL, REVALIDATE);
    Ok(response)
}

/// 404.
pub(super) fn no_ticket() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "There is no ticket with this id.")
}
