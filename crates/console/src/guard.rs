//! Which requests are answered: those whose Host header names this console. See [`Hosts`].

use axum::{
    extract::{Request, State},
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse, Response},
};
use common::pod::{hosts::Hosts, problem::Problem};

/// Answers 421 unless the Host header names this console.
pub async fn known_host(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    if hosts.allow_request(request.headers()) {
        return next.run(request).await;
    }
    Problem::new(
        StatusCode::MISDIRECTED_REQUEST,
        "This host name is not allowed. Use localhost, or add the name to CONSOLE_HOSTS.",
    )
    .into_response()
}
