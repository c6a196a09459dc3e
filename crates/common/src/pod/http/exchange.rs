//! Handles one request and its answer, and reports each step to the connection's [`Place`].

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, Version, header},
    response::Response,
};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tower::ServiceExt;

use super::place::Place;

/// Marks answers that cost no memory while the client reads them, such as a file compiled into the
/// program. They do not count towards the memory limit.
#[derive(Debug, Clone, Copy)]
pub struct Static;

/// Lets the router answer a request.
pub(super) async fn answer(
    router: Router,
    request: hyper::Request<Incoming>,
    place: Arc<Place>,
) -> Result<hyper::Response<Answer>, Infallible> {
    let has_body = !request.body().is_end_stream();
    place.begun(has_body);
    let keep_alive = match request.version() {
        Version::HTTP_11 => !says(request.headers(), "close"),
        _ => says(request.headers(), "keep-alive"),
    };
    let noted = has_body.then(|| place.clone());
    let request: Request =
        request.map(|body| Body::new(RequestBody { body, received: 0, place: noted }));
    let mut response: Response = router.oneshot(request).await?;
    // The rest of an unread body would be taken for the next request.
    if place.close_after_answer() || !place.is_complete() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let costs = response.extensions().get::<Static>().is_none();
    let size = if costs { response.body().size_hint().lower() } else { 0 };
    let size = usize::try_from(size).unwrap_or(usize::MAX / 2);
    place.answering(size, keep_alive && !says(response.headers(), "close"));
    Ok(response.map(|body| Answer { body, place }))
}

/// Returns whether the Connection header contains this word.
fn says(headers: &HeaderMap, word: &str) -> bool {
    let values = headers.get_all(header::CONNECTION).iter();
    let mut words = values.filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(','));
    words.any(|said| said.trim().eq_ignore_ascii_case(word))
}

/// A request's body, which reports its progress and its end.
struct RequestBody {
    body: Incoming,
    /// The bytes received so far.
    received: usize,
    place: Option<Arc<Place>>,
}

impl RequestBody {
    fn ended(&mut self, complete: bool) {
        if let Some(place) = self.place.take() {
            place.body_ended(complete);
        }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.received += match &frame {
            Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
            _ => 0,
        };
        let (failed, ended) = (matches!(frame, Some(Err(_))), frame.is_none());
        if failed || ended || self.body.is_end_stream() {
            self.ended(!failed);
        } else if let Some(place) = &self.place {
            place.body_received(self.received);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.ended(false);
    }
}

/// An answer's body, which reports its end.
pub(super) struct Answer {
    body: Body,
    place: Arc<Place>,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.place.answered();
    }
}
