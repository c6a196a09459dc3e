//! How a request is observed: its log lines, its span in a trace, and its metrics.
//!
//! Every line logged while a request is in progress has its ids: `request.id`, `trace.id` and `client.id`. Its last
//! line says how it ended: a warning if the answer is a 5xx, otherwise at the level `debug`. A change that a request
//! makes has a line of its own at `info`, and a proxy in front logs the rest; a line for each of ten thousand GETs a
//! second would bury both.

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, Method},
    middleware::Next,
    response::Response,
};
use bus::{ClientId, TraceContext, trace::SPANS};
use tokio::time::Instant;
use tracing::{Instrument, Span, debug, error_span, field::Empty, info_span, warn};

pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Runs the request in its spans and as part of its trace, and logs and measures how it went.
pub(super) async fn traced(
    State(client_id): State<ClientId>,
    request: Request,
    next: Next,
) -> Response {
    let begun = Instant::now();
    let method = known(request.method());
    let route = request.extensions().get::<MatchedPath>().map(|route| route.as_str().to_owned());
    let caller = text(&request, &TRACEPARENT).and_then(|text| text.parse().ok());
    let server = server_span(&request, method, route.as_deref());
    let trace = TraceContext::of_span(&server, caller);
    let span = log_span(&request, method, &trace, &client_id);
    let mut response = trace.scope(next.run(request)).instrument(span.clone()).await;
    if let Ok(value) = HeaderValue::from_str(&trace.to_string()) {
        response.headers_mut().insert(TRACEPARENT, value);
    }
    let (status, elapsed) = (response.status(), begun.elapsed());
    server.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        server.record("otel.status_code", "ERROR");
        server.record("error.type", status.as_str());
    }
    span.record("http.response.status_code", status.as_u16());
    let ms = elapsed.as_secs_f64() * 1e3;
    span.in_scope(|| {
        if status.is_server_error() {
            warn!(notice = "request", elapsed.ms = ms, "request");
        } else {
            debug!(notice = "request", elapsed.ms = ms, "request");
        }
    });
    // No label has values chosen by the client: each value costs memory forever.
    metrics::histogram!(
        "http_request_seconds",
        "method" => method,
        "route" => route.unwrap_or_else(|| "none".to_owned()),
        "status" => status.as_str().to_owned(),
    )
    .record(elapsed);
    response
}

/// The fields of a request's log lines. At the level `error`, so that a line at any level has them.
fn log_span(
    request: &Request,
    method: &'static str,
    trace: &TraceContext,
    client_id: &ClientId,
) -> Span {
    error_span!(
        parent: None,
        "request",
        request.id = text(request, &REQUEST_ID),
        trace.id = trace.trace_id(),
        client.id = %client_id,
        http.request.method = method,
        url.path = request.uri().path(),
        http.response.status_code = Empty,
    )
}

/// A request's span in its trace, by OpenTelemetry's conventions for HTTP servers.
fn server_span(request: &Request, method: &'static str, route: Option<&str>) -> Span {
    info_span!(
        target: SPANS,
        parent: None,
        "request",
        otel.name = route.map_or_else(|| method.to_owned(), |route| format!("{method} {route}")),
        otel.kind = "server",
        otel.status_code = Empty,
        error.r#type = Empty,
        http.request.method = method,
        http.route = route,
        http.response.status_code = Empty,
        url.path = request.uri().path(),
        url.scheme = "http",
        request.id = text(request, &REQUEST_ID),
    )
}

fn text<'a>(request: &'a Request, header: &HeaderName) -> Option<&'a str> {
    request.headers().get(header).and_then(|value| value.to_str().ok())
}

/// Returns a method's name, if it is one of RFC 9110 or PATCH.
fn known(method: &Method) -> &'static str {
    const KNOWN: [&str; 9] =
        ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    KNOWN.into_iter().find(|known| method.as_str() == *known).unwrap_or("other")
}
