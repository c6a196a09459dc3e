//! What all handlers share.

use axum::{
    extract::FromRef,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use common::{
    bus::{Pool, Shutdown, Wake},
    events::ticket::Ticket,
    pod::{auth::Auth, group_commit::GroupCommit, problem::Problem},
};

use crate::{group_commit::NewTickets, sellers::Sellers};

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

/// A ticket with its version as the ETag.
pub(super) fn ticket_body(status: StatusCode, ticket: &Ticket) -> Result<Response, Problem> {
    let content_type = HeaderValue::from_static("application/json");
    let headers = [(header::CONTENT_TYPE, content_type), (header::ETAG, etag(ticket.version))];
    Ok((status, headers, body_of(ticket)?).into_response())
}

pub(super) fn body_of(ticket: &Ticket) -> Result<String, Problem> {
    serde_json::to_string(ticket).map_err(|error| Problem::internal(&error.into()))
}

pub(super) fn etag(version: i32) -> HeaderValue {
    // Quoted digits are always a valid header value.
    HeaderValue::from_str(&format!("\"{version}\"")).unwrap_or(HeaderValue::from_static("\"\""))
}
