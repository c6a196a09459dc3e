//! Limits the requests in progress. A further request waits up to a second for its turn, in order
//! of arrival, and is then answered 503 with Retry-After. Each connection has one request at a
//! time, so no more wait than there are connections.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio::{sync::Semaphore, time::timeout};

use crate::pod::problem::Problem;

/// How long a request waits for its turn. Many times what a request takes: a client that waits
/// longer should try another replica.
const TURN: Duration = Duration::from_secs(1);

/// Passes a request on when its turn comes.
pub(super) async fn in_turn(
    State(places): State<Arc<Semaphore>>,
    request: Request,
    next: Next,
) -> Response {
    let Ok(Ok(_place)) = timeout(TURN, places.acquire()).await else {
        let detail = "Too many requests in progress. Retry later.";
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).into_response();
    };
    next.run(request).await
}
