//! The API: `GET /api/tickets` and `GET /api/tickets/{id}`, the copy as this service keeps it.

use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use common::pod::{
    http::stack,
    page::{PageQuery, PathId},
    problem::Problem,
};
use serde::Serialize;
use sqlx::PgPool;

use crate::store::{self, KnownTicket};

/// A page of tickets.
#[derive(Debug, Serialize)]
struct Page {
    tickets: Vec<KnownTicket>,
    /// The cursor of the next page, to be sent as `after`; null on the last page.
    next: Option<String>,
}

/// The API behind the stack of limits. At most `concurrent` requests run at once.
pub fn router(pool: PgPool, concurrent: usize) -> Router {
    let routes = Router::new()
        .route("/api/tickets", get(list))
        .route("/api/tickets/{id}", get(read))
        .with_state(pool);
    stack(routes, concurrent)
}

async fn list(State(pool): State<PgPool>, query: PageQuery) -> Result<Json<Page>, Problem> {
    let mut connection = pool.acquire().await?;
    let mut tickets = store::page(&mut connection, query.after, query.rows()).await?;
    let next = query.cut(&mut tickets, |ticket| ticket.id);
    Ok(Json(Page { tickets, next }))
}

async fn read(
    State(pool): State<PgPool>,
    PathId(id): PathId,
) -> Result<Json<KnownTicket>, Problem> {
    let mut connection = pool.acquire().await?;
    let found = store::find(&mut connection, id).await?;
    found.map(Json).ok_or_else(|| {
        let detail = "This service knows no ticket with this id: there is none, or its event has not arrived yet.";
        Problem::new(StatusCode::NOT_FOUND, detail)
    })
}
