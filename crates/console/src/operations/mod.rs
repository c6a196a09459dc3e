//! Passes the page's requests on to the services' operations APIs, each to one replica, if possible a ready one.
//! Requests that act require the right to act, and carry the services' token, which no browser learns.

mod replica;
mod timeline;
pub(crate) mod totals;

use axum::{
    Json, Router,
    extract::{OriginalUri, Path, State},
    http::StatusCode,
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use common::pod::problem::Problem;
use futures::future::join_all;
use serde_json::{Value, json};

use crate::{
    Console,
    act::{Rights, rights},
};

pub use replica::Operations;

/// The routes. `/api/act/…` requires the right to act.
pub(crate) fn routes(rights: &Rights) -> Router<Console> {
    let acting = Router::new()
        .route("/api/act/operations/{service}/{act}", post(act))
        .layer(from_fn_with_state(rights.clone(), rights::may_act));
    Router::new()
        .route("/api/totals", get(totals::totals))
        .route("/api/timeline", get(timeline::timeline))
        .route("/api/operations", get(services))
        .route("/api/operations/{service}/dead-letters", get(dead_letters))
        .route("/api/operations/{service}/dead-letters/groups", get(groups))
        .route("/api/operations/{service}/dead-letters/acts", get(acts))
        .route("/api/operations/{service}/dead-letters/{id}", get(dead_letter))
        .merge(acting)
}

/// Every known service, and what its operations API says about itself.
async fn services(State(console): State<Console>) -> Json<Value> {
    let operations = &console.operations;
    let asked = operations.services().into_iter().map(async |service| {
        match operations.get(&service, "/operations", None).await {
            Ok((StatusCode::OK, about)) => json!({ "service": service, "about": about }),
            Ok((StatusCode::NOT_FOUND, _)) => {
                json!({ "service": service, "why": "its OPERATIONS_API is off" })
            }
            Ok((status, _)) => json!({ "service": service, "why": format!("it answers {status}") }),
            Err(why) => json!({ "service": service, "why": why.to_string() }),
        }
    });
    Json(Value::Array(join_all(asked).await))
}

async fn dead_letters(
    State(console): State<Console>,
    Path(service): Path<String>,
    OriginalUri(uri): OriginalUri,
) -> Response {
    pass_on(&console, &service, "/operations/dead-letters", uri.query()).await
}

async fn groups(State(console): State<Console>, Path(service): Path<String>) -> Response {
    pass_on(&console, &service, "/operations/dead-letters/groups", None).await
}

async fn acts(
    State(console): State<Console>,
    Path(service): Path<String>,
    OriginalUri(uri): OriginalUri,
) -> Response {
    pass_on(&console, &service, "/operations/dead-letters/acts", uri.query()).await
}

async fn dead_letter(
    State(console): State<Console>,
    Path((service, id)): Path<(String, u64)>,
) -> Response {
    pass_on(&console, &service, &format!("/operations/dead-letters/{id}"), None).await
}

async fn pass_on(console: &Console, service: &str, path: &str, query: Option<&str>) -> Response {
    answered(console.operations.get(service, path, query).await)
}

async fn act(
    State(console): State<Console>,
    Path((service, act)): Path<(String, String)>,
    Json(body): Json<Value>,
) -> Response {
    if !["redrive", "discard"].contains(&act.as_str()) {
        return Problem::new(StatusCode::NOT_FOUND, "There is no such action.").into_response();
    }
    let path = format!("/operations/dead-letters/{act}");
    match console.operations.post(&service, &path, &body).await {
        // A 401 would mean that the console's own token is wrong.
        Ok((StatusCode::UNAUTHORIZED, _)) => {
            let detail = "The service does not accept this console's CONSOLE_OPERATIONS_TOKEN.";
            Problem::new(StatusCode::BAD_GATEWAY, detail).into_response()
        }
        other => answered(other),
    }
}

fn answered(answer: anyhow::Result<(StatusCode, Value)>) -> Response {
    match answer {
        Ok((status, body)) => (status, Json(body)).into_response(),
        Err(why) => Problem::new(StatusCode::BAD_GATEWAY, why.to_string()).into_response(),
    }
}
