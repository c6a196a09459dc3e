//! Which requests are at work. So many are at once; a further one waits its turn for a second, the oldest
//! first, and is then answered 503 with Retry-After. As each connection has one request at a time, no more
//! wait than there are connections.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio::{sync::Semaphore, time::timeout};

use crate::pod::problem::Problem;

/// How long a request waits for its turn. Many times what one takes: whoever waits longer had better ask
/// another replica.
const TURN: Duration = Duration::from_secs(1);

/// Passes a request on in its turn.
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
