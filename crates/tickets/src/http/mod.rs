//! The HTTP API: `POST` and `GET /api/tickets`, `GET` and `PUT /api/tickets/{id}`, the API's
//! description at `/openapi.json` and `/docs`, and the events' description at `/asyncapi.json`.

mod change;
mod conditional;
mod create;
mod list;
mod read;

use axum::{
    Router,
    extract::FromRef,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use common::{
    bus::{Pool, Shutdown, Wake},
    events::{asyncapi, ticket::Ticket},
    pod::{
        auth::{self, Auth},
        group_commit::GroupCommit,
        http::{MiddlewareSettings, middleware},
        openapi,
        problem::Problem,
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{EVENTS, group_commit::NewTickets, sellers::Sellers};

/// The state that all handlers share.
#[derive(Debug, Clone)]
pub struct Api {
    /// The service's database.
    pub pool: Pool,
    /// Wakes the relay after a commit.
    pub wake: Wake,
    /// Determines the seller of a request, and what that seller may change.
    pub sellers: Sellers,
    /// Stores new tickets.
    pub group_commit: GroupCommit<NewTickets>,
}

impl Api {
    /// Starts what the handlers need.
    #[must_use]
    pub fn start(pool: Pool, wake: Wake, sellers: Sellers, shutdown: &Shutdown) -> Self {
        let group_commit = GroupCommit::start(NewTickets, &pool, &wake, shutdown);
        Self { pool, wake, sellers, group_commit }
    }
}

impl FromRef<Api> for Auth {
    fn from_ref(api: &Api) -> Self {
        api.sellers.auth.clone()
    }
}

/// The API and its description, behind the middleware.
pub fn router(api: Api, settings: &MiddlewareSettings) -> Router {
    let (routes, mut description) = OpenApiRouter::new()
        .routes(routes!(create::create, list::list))
        .routes(routes!(read::read, change::change))
        .with_state(api)
        .split_for_parts();
    auth::describe(&mut description, "seller");
    let description = openapi::routes(description, "tickets", "Tickets, each with a version.");
    middleware(routes.merge(description).merge(asyncapi::routes(&EVENTS)), settings)
}

/// A ticket with its version as the ETag.
fn ticket_body(status: StatusCode, ticket: &Ticket) -> Result<Response, Problem> {
    let content_type = HeaderValue::from_static("application/json");
    let headers = [(header::CONTENT_TYPE, content_type), (header::ETAG, etag(ticket.version))];
    Ok((status, headers, body_of(ticket)?).into_response())
}

fn body_of(ticket: &Ticket) -> Result<String, Problem> {
    serde_json::to_string(ticket).map_err(|error| Problem::internal(&error.into()))
}

fn etag(version: i32) -> HeaderValue {
    // Quoted digits are always a valid header value.
    HeaderValue::from_str(&format!("\"{version}\"")).unwrap_or(HeaderValue::from_static("\"\""))
}
