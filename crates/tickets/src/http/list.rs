//! `GET /api/tickets`, paginated by cursor, newest first. New tickets never shift the following
//! pages, because a cursor names a ticket and not an offset.

use axum::{Json, extract::State};
use common::pod::responses::PageResponses;
use common::{
    events::ticket::Ticket,
    pod::{page::PageQuery, problem::Problem},
};
use serde::Serialize;
use sqlx::PgConnection;
use utoipa::ToSchema;

use super::api::Api;
use crate::store;

/// A page of tickets.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Page {
    /// The tickets, newest first.
    #[schema(max_items = 100)]
    tickets: Vec<Ticket>,
    /// The cursor of the next page, to be sent as `after`; null on the last page.
    #[schema(required = true)]
    next: Option<String>,
}

/// List tickets.
///
/// Newest first. Follow `next` until it is null.
#[utoipa::path(
    get,
    path = "/api/tickets",
    tag = "tickets",
    params(PageQuery),
    responses(
        (status = 200, description = "A page of tickets.", body = Page),
        PageResponses,
    )
)]
pub(super) async fn list(State(api): State<Api>, query: PageQuery) -> Result<Json<Page>, Problem> {
    let page = async |connection: &mut PgConnection| {
        store::page(connection, query.after, query.rows()).await
    };
    let mut tickets = api.pool.run(page).await?;
    let next = query.cut(&mut tickets, |ticket| ticket.id);
    Ok(Json(Page { tickets, next }))
}
