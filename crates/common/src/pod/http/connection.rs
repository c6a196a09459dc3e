//! Serves one connection with hyper, HTTP/1.1 only, and reports every step to its [`Place`].
//!
//! hyper owns the connection from the end of a request's head until the answer is written, and
//! needs some 64 KiB for it. Before and between requests, a connection costs almost nothing.

use std::{future::poll_fn, sync::Arc, task::Poll};

use axum::Router;
use bytes::BytesMut;
use futures::FutureExt;
use hyper::{server::conn::http1::Builder, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, sync::oneshot, task::yield_now};

use super::{
    exchange,
    head::{self, MAX_HEAD},
    phase::End,
    place::Place,
    watched::Watched,
};

/// The HTTP settings of all connections.
pub(super) fn protocol() -> Builder {
    let mut http = Builder::new();
    // No timer: the server enforces deadlines itself, and answers 408.
    http.max_header_size(MAX_HEAD).max_buf_size(MAX_HEAD).keep_alive(true).half_close(false);
    http
}

/// Serves a connection until it ends, or until the server ends it.
pub(super) async fn serve(
    mut stream: TcpStream,
    http: Builder,
    router: Router,
    place: Place,
    mut ended: oneshot::Receiver<End>,
) {
    let place = Arc::new(place);
    let mut received = BytesMut::new();
    loop {
        let read = tokio::select! {
            biased;
            end = &mut ended => return say_why(&stream, end),
            read = head::read(&stream, received, &place) => read,
        };
        let Some(head) = read else { return };
        let io = Watched::new(stream, head.freeze(), place.clone());
        let talk = Box::pin(converse(io, &http, &router, &place, &mut ended));
        match talk.await {
            Some(next) => (stream, received) = next,
            None => return,
        }
        // A client that pipelines requests without a pause must yield to others.
        if !received.is_empty() {
            yield_now().await;
        }
    }
}

/// Answers requests until there is a pause between two. Returns the connection then, with what has
/// arrived of the next request; `None` if the connection is over.
async fn converse(
    io: Watched,
    http: &Builder,
    router: &Router,
    place: &Arc<Place>,
    ended: &mut oneshot::Receiver<End>,
) -> Option<(TcpStream, BytesMut)> {
    let service = service_fn(|request| exchange::answer(router.clone(), request, place.clone()));
    let mut connection = http.serve_connection(TokioIo::new(io), service);
    let end = poll_fn(|cx| {
        if let Poll::Ready(end) = ended.poll_unpin(cx) {
            return Poll::Ready(Some(end));
        }
        match connection.poll_unpin(cx) {
            // A client that disconnects or sends no valid HTTP is not logged as an error.
            Poll::Ready(_) => Poll::Ready(Some(Ok(End::Stop))),
            Poll::Pending if place.is_idle() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    });
    let end = end.await;
    let parts = connection.into_parts();
    let (stream, unread) = parts.io.into_inner().into_parts();
    if let Some(end) = end {
        say_why(&stream, end);
        return None;
    }
    // Copied, so that hyper's buffer is freed.
    let mut received = BytesMut::from(&*parts.read_buf);
    received.extend_from_slice(&unread);
    Some((stream, received))
}

/// Tells a client why its connection ends in the middle of a request. Writes only what fits into
/// the socket's buffer, and does not wait for a slow client.
fn say_why(stream: &TcpStream, end: Result<End, oneshot::error::RecvError>) {
    let words = match end {
        Ok(End::Late { half_head: true }) => {
            problem(408, "Request Timeout", "", "The request's headers did not arrive in time.")
        }
        Ok(End::Room { half_request: true }) => problem(
            503,
            "Service Unavailable",
            "retry-after: 1\r\n",
            "The request did not arrive in time while others waited. Try again.",
        ),
        _ => return,
    };
    let _ = stream.try_write(words.as_bytes());
}

/// Builds a problem response for when no handler can answer.
fn problem(status: u16, title: &str, header: &str, detail: &str) -> String {
    let body = format!(
        r#"{{"type":"about:blank","title":"{title}","status":{status},"detail":"{detail}"}}"#
    );
    format!(
        "HTTP/1.1 {status} {title}\r\ncontent-type: application/problem+json\r\n{header}\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}
