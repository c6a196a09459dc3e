//! One connection: HTTP/1.1 and nothing else, by hyper, with its [`Place`] told of every step.

use std::{
    convert::Infallible,
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderValue, header},
    response::Response,
};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::{body::Incoming, server::conn::http1::Builder, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::oneshot,
};
use tower::ServiceExt;

use super::{connections::Place, phase::End};

/// The largest head of a request, in bytes: its line and its headers. A larger one is answered 431.
pub const MAX_HEAD: usize = 16 * 1024;
/// How much a client may still send after its connection was closed: enough for what it had begun, so
/// that it reads the answer before it sees the end.
const MAX_LINGERING: usize = 256 * 1024;

/// Answers that cost no memory while they wait to be taken, such as a file that is part of the
/// program: they do not count as unsent.
#[derive(Debug, Clone, Copy)]
pub struct Static;

/// How connections are served.
pub(super) fn protocol() -> Builder {
    let mut http = Builder::new();
    // No timer: the server looks after deadlines itself, and answers 408.
    http.max_header_size(MAX_HEAD).max_buf_size(MAX_HEAD).keep_alive(true).half_close(false);
    http
}

/// Serves one connection to its end, or until it is ended.
pub(super) async fn serve(
    stream: TcpStream,
    http: Builder,
    router: Router,
    place: Place,
    mut ended: oneshot::Receiver<End>,
) {
    // Nothing is set aside for a client that says nothing.
    tokio::select! {
        biased;
        _ = &mut ended => return,
        readable = stream.readable() => if readable.is_err() { return },
    }
    Box::pin(converse(stream, http, router, place, ended)).await;
}

async fn converse(
    stream: TcpStream,
    http: Builder,
    router: Router,
    place: Place,
    mut ended: oneshot::Receiver<End>,
) {
    let place = Arc::new(place);
    let io = Watched { stream, place: place.clone(), at_end: false, lingered: 0 };
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        answer(router.clone(), request, place.clone())
    });
    let mut connection = http.serve_connection(TokioIo::new(io), service);
    let end = tokio::select! {
        biased;
        end = &mut ended => end,
        // A client that goes away, or sends what is no HTTP, is nobody's failure.
        _ = &mut connection => return,
    };
    let words = match end {
        Ok(End::Late { half_head: true }) => {
            last_words(408, "Request Timeout", "", "The request's head did not come in time.")
        }
        Ok(End::Room { half_request: true }) => last_words(
            503,
            "Service Unavailable",
            "retry-after: 1\r\n",
            "The request did not come in time while others waited. Try again.",
        ),
        _ => return,
    };
    // As much as there is room for: nobody waits for a client that made everybody wait.
    let _ = connection.into_parts().io.into_inner().stream.try_write(words.as_bytes());
}

/// A problem, for where no handler can answer.
fn last_words(status: u16, title: &str, header: &str, detail: &str) -> String {
    let body = format!(
        r#"{{"type":"about:blank","title":"{title}","status":{status},"detail":"{detail}"}}"#
    );
    format!(
        "HTTP/1.1 {status} {title}\r\ncontent-type: application/problem+json\r\n{header}\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

async fn answer(
    router: Router,
    request: hyper::Request<Incoming>,
    place: Arc<Place>,
) -> Result<hyper::Response<Answer>, Infallible> {
    place.begun(!request.body().is_end_stream());
    let request: Request =
        request.map(|body| Body::new(Received { body, place: Some(place.clone()) }));
    let mut response: Response = router.oneshot(request).await?;
    if place.close_after_answer() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let costs = response.extensions().get::<Static>().is_none();
    let size = if costs { response.body().size_hint().lower() } else { 0 };
    place.answering(usize::try_from(size).unwrap_or(usize::MAX / 2));
    Ok(response.map(|body| Answer { body, place }))
}

/// A request's body, whose end is noted.
struct Received {
    body: Incoming,
    place: Option<Arc<Place>>,
}

impl Received {
    fn complete(&mut self) {
        if let Some(place) = self.place.take() {
            place.complete();
        }
    }
}

impl HttpBody for Received {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) || self.body.is_end_stream() {
            self.complete();
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

impl Drop for Received {
    fn drop(&mut self) {
        self.complete();
    }
}

/// An answer's body, whose end is noted.
struct Answer {
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

/// The socket, with what comes and goes noted.
struct Watched {
    stream: TcpStream,
    place: Arc<Place>,
    /// The client has closed its side.
    at_end: bool,
    /// What came after this side was closed, in bytes.
    lingered: usize,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.place.received();
        } else {
            self.at_end = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes once it has written all that it has.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.place.flushed();
        Poll::Ready(Ok(()))
    }

    /// Closes this side, and passes over what the client still sends: with bytes left unread, the kernel
    /// would reset the connection, and the client might never see its answer.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        self.place.closing();
        while !self.at_end && self.lingered < MAX_LINGERING {
            let mut passed_over = [MaybeUninit::uninit(); 4096];
            let mut buffer = ReadBuf::uninit(&mut passed_over);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            self.at_end = buffer.filled().is_empty();
            self.lingered += buffer.filled().len();
        }
        Poll::Ready(Ok(()))
    }
}
