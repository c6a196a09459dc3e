//! `GET /api/tickets` and `GET /api/tickets/{id}`: this service's copy of the tickets.

use axum::{Json, extract::State, http::StatusCode};
use common::pod::responses::PageResponses;
use common::pod::{
    page::{PageQuery, PathId},
    problem::Problem,
};
use serde::Serialize;
use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};
use utoipa::ToSchema;
use uuid::Uuid;

use super::api::Api;
use crate::store::tickets::{self, KnownTicket};

/// A page of tickets.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TicketPage {
    /// The tickets, newest first.
    #[schema(max_items = 100)]
    tickets: Vec<KnownTicket>,
    /// The cursor of the next page, to be sent as `after`; null on the last page.
    #[schema(required = true)]
    next: Option<String>,
}

/// List the tickets that this service knows.
///
/// Newest first. Follow `next` until it is null.
#[utoipa::path(
    get,
    path = "/api/tickets",
    tag = "tickets",
    params(PageQuery),
    responses(
        (status = 200, description = "A page of tickets.", body = TicketPage),
        PageResponses,
    )
)]
pub(super) async fn list(
    State(api): State<Api>,
    query: PageQuery,
) -> Result<Json<TicketPage>, Problem> {
    let page = async |connection: &mut PgConnection| {
        tickets::page(connection, query.after, query.rows()).await
    };
    let mut tickets = api.pool.run(page).await?;
    let next = query.cut(&mut tickets, |ticket| ticket.id);
    Ok(Json(TicketPage { tickets, next }))
}

/// Read a ticket as this service knows it.
#[utoipa::path(
    get,
    path = "/api/tickets/{id}",
    tag = "tickets",
    params(
        ("id" = Uuid, Path, description = "The ticket's id.",
            example = "01936b2e-7c00-7000-8000-000000000001")
    ),
    responses(
        (status = 200, description = "The ticket.", body = KnownTicket),
        (status = 400, description = "The id is not a UUID.",
            body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "This service has no ticket with this id.",
            body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn read(
    State(api): State<Api>,
    PathId(id): PathId,
) -> Result<Json<KnownTicket>, Problem> {
    let find = async |connection: &mut PgConnection| tickets::find(connection, id).await;
    api.pool.run(find).await?.map(Json).ok_or_else(|| no_ticket(id))
}

/// How long after a ticket's creation its event may still be on its way. NATS may be down for that
/// long.
const ON_ITS_WAY: Duration = Duration::DAY;

/// 404. If the id is recent, the event of the ticket may still arrive.
pub(super) fn no_ticket(id: Uuid) -> Problem {
    let is_recent = id.get_timestamp().is_some_and(|made| {
        let (seconds, _) = made.to_unix();
        let age = OffsetDateTime::now_utc().unix_timestamp().saturating_sub_unsigned(seconds);
        // The clock of the id's creator may be ahead.
        Duration::seconds(age).abs() < ON_ITS_WAY
    });
    if is_recent {
        let detail =
            "This service has no ticket with this id yet: its event may be on its way. Try again.";
        return Problem::new(StatusCode::NOT_FOUND, detail).retry_after(1);
    }
    Problem::new(StatusCode::NOT_FOUND, "This service has no ticket with this id.")
}
