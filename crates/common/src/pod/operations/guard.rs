//! Decides which requests the operations API answers.

use std::net::SocketAddr;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::pod::{bearer::Bearer, hosts::Hosts, problem::Problem};

/// The allowed callers.
#[derive(Debug, Clone)]
pub(super) struct Callers {
    /// On a loopback address, the host names that are accepted, so that a website cannot send requests through a
    /// name of its own. Elsewhere `None`: a Service may have any name.
    hosts: Option<Hosts>,
}

impl Callers {
    /// The callers of a server that listens here.
    pub(super) fn at(address: SocketAddr) -> Self {
        Self { hosts: address.ip().is_loopback().then(|| Hosts::new(&[])) }
    }
}

/// Refuses requests of browsers, whatever page sends them: this API is only for programs.
pub(super) async fn programs_only(
    State(callers): State<Callers>,
    request: Request,
    next: Next,
) -> Response {
    if is_of_a_browser(request.headers()) {
        let detail = "This API does not answer browsers. Use the console.";
        return Problem::new(StatusCode::FORBIDDEN, detail).into_response();
    }
    if callers.hosts.is_some_and(|hosts| !hosts.allow_request(request.headers())) {
        let detail = "This host name is not allowed here. Use localhost.";
        return Problem::new(StatusCode::MISDIRECTED_REQUEST, detail).into_response();
    }
    next.run(request).await
}

fn is_of_a_browser(headers: &HeaderMap) -> bool {
    headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site")
}

/// Refuses requests without the token that acting requires; all of them, if no token is set.
pub(super) async fn token_required(
    State(token): State<Option<Bearer>>,
    request: Request,
    next: Next,
) -> Response {
    let Some(token) = token else {
        let detail = "This service's operations API is read-only: it has no OPERATIONS_TOKEN.";
        return Problem::new(StatusCode::FORBIDDEN, detail).into_response();
    };
    if token.is_in(request.headers()) {
        return next.run(request).await;
    }
    let detail = "This requires OPERATIONS_TOKEN, as `Authorization: Bearer`.";
    Problem::new(StatusCode::UNAUTHORIZED, detail).into_response()
}
