//! Receives a request: its id, its URL and its whole body. A client that sends slowly waits here,
//! and does not take one of the slots for requests in progress.

use std::{error::Error, time::Duration};

use axum::{
    BoxError,
    body::Body,
    extract::Request,
    http::{HeaderValue, StatusCode},
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http_body::Body as _;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::time::timeout;

use crate::pod::problem::Problem;

/// The largest request body, in bytes: a ticket needs under one kilobyte.
pub const MAX_BODY: usize = 16 * 1024;
/// How long a body may take to arrive, from the end of the head.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest path and query, in bytes. The longest that the APIs themselves use have under two
/// hundred.
pub const MAX_URL: usize = 2_048;
/// The longest X-Request-Id that is accepted, in characters.
pub const MAX_REQUEST_ID: usize = 128;

const REQUEST_ID: &str = "x-request-id";

/// Removes an invalid X-Request-Id, so that the request gets a new one. The id ends up in the logs
/// of every service called.
pub(super) fn identified(mut request: Request) -> Request {
    let mut ids = request.headers().get_all(REQUEST_ID).iter().map(HeaderValue::as_bytes);
    let fits =
        |id: &[u8]| (1..=MAX_REQUEST_ID).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic);
    if !ids.next().is_some_and(fits) || ids.next().is_some() {
        request.headers_mut().remove(REQUEST_ID);
    }
    request
}

/// Passes a request on once its body has arrived completely.
pub(super) async fn complete(request: Request, next: Next) -> Response {
    if request.uri().path_and_query().is_some_and(|url| url.as_str().len() > MAX_URL) {
        let detail = format!("Path and query must have at most {MAX_URL} bytes.");
        return Problem::new(StatusCode::URI_TOO_LONG, detail).into_response();
    }
    let (parts, body) = request.into_parts();
    match read(body).await {
        Ok(body) => next.run(Request::from_parts(parts, Body::from(body))).await,
        Err(problem) => problem.into_response(),
    }
}

async fn read(body: Body) -> Result<Bytes, Problem> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let too_large = || {
        let detail = format!("The body must have at most {} KiB.", MAX_BODY / 1024);
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    };
    // A body that announces that it is too large is not read.
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(too_large());
    }
    match timeout(BODY_TIMEOUT, copy(Limited::new(body, MAX_BODY))).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) if is_too_large(&*error) => Err(too_large()),
        Ok(Err(_)) => Err(Problem::new(StatusCode::BAD_REQUEST, "The request body is incomplete.")),
        Err(_) => {
            let detail =
                format!("The request body must arrive within {} s.", BODY_TIMEOUT.as_secs());
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, detail))
        }
    }
}

/// Copies the body, because each piece would keep alive the 8 KiB buffer it was read into: 128 MiB
/// for a body that arrives byte by byte.
async fn copy(mut body: Limited<Body>) -> Result<Bytes, BoxError> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        bytes.extend_from_slice(frame?.data_ref().map_or(&[], |data| &data[..]));
    }
    Ok(bytes.into())
}

fn is_too_large(error: &(dyn Error + 'static)) -> bool {
    error.is::<LengthLimitError>() || error.source().is_some_and(is_too_large)
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, sync::Arc};

    use futures::stream;

    use super::*;

    /// The buffer that a piece was read into.
    struct Buffer {
        _counted: Arc<()>,
    }

    impl AsRef<[u8]> for Buffer {
        fn as_ref(&self) -> &[u8] {
            b"a"
        }
    }

    #[tokio::test]
    async fn a_body_does_not_keep_the_buffers_its_pieces_arrived_in() {
        let buffers = Arc::new(());
        let pieces = (0..1000).map({
            let buffers = buffers.clone();
            move |_| {
                // This one, the stream's own, and the previous piece.
                assert!(Arc::strong_count(&buffers) <= 3);
                Ok::<_, Infallible>(Bytes::from_owner(Buffer { _counted: buffers.clone() }))
            }
        });
        let body = read(Body::from_stream(stream::iter(pieces))).await;
        assert_eq!(body.ok(), Some(Bytes::from("a".repeat(1000))));
        assert_eq!(Arc::strong_count(&buffers), 1);
    }
}
