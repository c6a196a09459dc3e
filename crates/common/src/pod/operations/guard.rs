//! Who is answered by the operations API.

use std::net::SocketAddr;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::pod::{bearer::Bearer, hosts::Hosts, problem::Problem};

/// Who may ask.
#[derive(Debug, Clone)]
pub(super) struct Callers {
    /// On a loopback address, the names by which it may be asked, so that a website cannot ask it through a name
    /// of its own. Elsewhere `None`: a Service may have any name.
    hosts: Option<Hosts>,
}

impl Callers {
    /// Those of a server that listens here.
    pub(super) fn at(address: SocketAddr) -> Self {
        Self { hosts: address.ip().is_loopback().then(|| Hosts::new(&[])) }
    }
}

/// Refuses what a browser sends, whatever page it has open: only programs have a use for this API.
pub(super) async fn programs_only(
    State(callers): State<Callers>,
    request: Request,
    next: Next,
) -> Response {
    if is_of_a_browser(request.headers()) {
        let detail = "Browsers are not answered here. Use the console.";
        return Problem::new(StatusCode::FORBIDDEN, detail).into_response();
    }
    if callers.hosts.is_some_and(|hosts| !hosts.are_named_in(request.headers())) {
        let detail = "This host name is not allowed here. Use localhost.";
        return Problem::new(StatusCode::MISDIRECTED_REQUEST, detail).into_response();
    }
    next.run(request).await
}

fn is_of_a_browser(headers: &HeaderMap) -> bool {
    headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site")
}

/// Refuses what has not the token that acting requires; everything, if there is none.
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
