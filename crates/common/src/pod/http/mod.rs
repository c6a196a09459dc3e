//! The HTTP middleware of every API: limits on requests, request ids and trace context, problem
//! details, and security headers. [`server`] runs it.

mod conditional;
mod connection;
mod connections;
mod exchange;
mod head;
mod intake;
mod listen;
mod phase;
mod place;
pub mod server;
mod table;
mod turn;
mod watched;

use std::{sync::Arc, time::Duration};

use axum::{
    BoxError, Router,
    error_handling::HandleErrorLayer,
    extract::{MatchedPath, Request},
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
};
use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use tokio::{sync::Semaphore, time::Instant};
use tower::ServiceBuilder;
use tower_http::{
    catch_panic::CatchPanicLayer,
    cors::{AllowOrigin, CorsLayer},
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
    set_header::SetResponseHeaderLayer,
};
use tracing::{Instrument, Span, debug, error_span, field::Empty};

use super::problem::Problem;
use bus::{TraceContext, trace};

pub use connection::MAX_HEAD;
pub use exchange::Static;
pub use intake::{BODY_TIMEOUT, MAX_BODY, MAX_REQUEST_ID, MAX_URL};
pub use listen::Http;
pub use phase::Deadlines;

/// How long a handler may take once the request has arrived completely. Longer than the database's
/// timeouts, so that the database's error comes first.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// How long a browser may cache the answer about an origin.
const CORS_MAX_AGE: Duration = Duration::from_hours(1);

/// The settings of the middleware.
#[derive(Debug, Clone)]
pub struct MiddlewareSettings {
    /// How many requests may be in progress at once.
    pub concurrent: usize,
    /// The origins whose pages may call the API from a browser; `*` allows all.
    pub origins: Vec<HeaderValue>,
}

impl Default for MiddlewareSettings {
    fn default() -> Self {
        Self { concurrent: 128, origins: Vec::new() }
    }
}

/// Puts an API behind the middleware. A request above the limit on those in progress waits up to a second for
/// its turn and then gets a 503 with Retry-After; one whose body has not arrived is not in progress.
pub fn middleware(api: Router, settings: &MiddlewareSettings) -> Router {
    let header =
        |name, value| SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value));
    let places = Arc::new(Semaphore::new(settings.concurrent));
    let api = api
        .fallback(|| async {
            Problem::new(StatusCode::NOT_FOUND, "No resource has this path.")
        })
        .method_not_allowed_fallback(|| async {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "This resource does not support the method. The Allow header lists those it supports.",
            )
        })
        .layer(
            ServiceBuilder::new()
                .map_request(intake::identified)
                .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
                .layer(PropagateRequestIdLayer::x_request_id())
                .layer(header(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
                .layer(header(header::X_FRAME_OPTIONS, "DENY"))
                .layer(header(header::REFERRER_POLICY, "no-referrer"))
                .layer(header(header::CACHE_CONTROL, "no-store"))
                .layer(header(
                    header::CONTENT_SECURITY_POLICY,
                    "default-src 'none'; frame-ancestors 'none'",
                ))
                .layer(from_fn(traced))
                .layer(from_fn(conditional::conditional))
                .layer(from_fn(intake::whole))
                .layer(from_fn_with_state(places, turn::in_turn))
                .layer(HandleErrorLayer::new(given_up))
                .timeout(REQUEST_TIMEOUT)
                .layer(CatchPanicLayer::custom(panicked)),
        );
    match cors(&settings.origins) {
        Some(cors) => api.layer(cors),
        None => api,
    }
}

/// Lets pages from these origins use everything that the API offers, except cookies, which it does
/// not use.
fn cors(origins: &[HeaderValue]) -> Option<CorsLayer> {
    let origin = match origins {
        [] => return None,
        [any] if any == "*" => AllowOrigin::any(),
        origins => AllowOrigin::list(origins.iter().cloned()),
    };
    let named = HeaderName::from_static;
    let layer = CorsLayer::new()
        .allow_origin(origin)
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::IF_MATCH,
            header::IF_NONE_MATCH,
            named("idempotency-key"),
            named("x-request-id"),
            TRACEPARENT,
        ])
        .expose_headers([
            header::ETAG,
            header::LOCATION,
            header::RETRY_AFTER,
            named("idempotency-replayed"),
            named("x-request-id"),
            TRACEPARENT,
        ])
        .max_age(CORS_MAX_AGE);
    Some(layer)
}

/// Runs the request in a span and as part of its trace, and logs and measures the result. Every
/// line logged meanwhile has the span's fields.
async fn traced(request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let method = known(request.method());
    let route = request.extensions().get::<MatchedPath>().map(|route| route.as_str().to_owned());
    let route = route.unwrap_or_else(|| "none".to_owned());
    let caller = text(&request, &TRACEPARENT).and_then(|text| text.parse().ok());
    let span = span_of(&request, method);
    let trace = TraceContext::of_span(&span, caller);
    span.record("trace.id", trace.trace_id());
    if trace::is_traced() {
        span.record("otel.name", format!("{method} {route}"));
        span.record("otel.kind", "server");
        span.record("http.route", &*route);
    }
    let mut response = trace.scope(next.run(request)).instrument(span.clone()).await;
    if let Ok(value) = HeaderValue::from_str(&trace.to_string()) {
        response.headers_mut().insert(TRACEPARENT, value);
    }
    let (status, elapsed) = (response.status(), begun.elapsed());
    span.record("http.response.status_code", status.as_u16());
    if trace::is_traced() && status.is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
    span.in_scope(|| debug!(elapsed.ms = elapsed.as_secs_f64() * 1e3, "request"));
    // No label has values chosen by the client: each value costs memory forever.
    metrics::histogram!(
        "http_request_seconds",
        "method" => method,
        "route" => route,
        "status" => status.as_str().to_owned(),
    )
    .record(elapsed);
    response
}

/// A request's span. At level `error`, so that log lines of every level carry its fields.
fn span_of(request: &Request, method: &'static str) -> Span {
    error_span!(
        parent: None,
        "request",
        request.id = text(request, &REQUEST_ID),
        trace.id = Empty,
        http.request.method = method,
        url.path = request.uri().path(),
        http.response.status_code = Empty,
        otel.name = Empty,
        otel.kind = Empty,
        otel.status_code = Empty,
        http.route = Empty,
    )
}

fn text<'a>(request: &'a Request, header: &HeaderName) -> Option<&'a str> {
    request.headers().get(header).and_then(|value| value.to_str().ok())
}

/// Describes the HTTP metrics.
pub(super) fn describe_metrics() {
    let requests = "How long requests took, by method, route, and the answer's status.";
    describe_histogram!("http_request_seconds", Unit::Seconds, requests);
    describe_gauge!("http_connections", "Open connections of the API, or of probes and metrics.");
    let ended = "Connections ended because their client was late, or to make room.";
    describe_counter!("http_connections_ended_total", ended);
}

/// Returns a method's name, if it is one of RFC 9110 or PATCH.
fn known(method: &Method) -> &'static str {
    const KNOWN: [&str; 9] =
        ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    KNOWN.into_iter().find(|known| method.as_str() == *known).unwrap_or("other")
}

/// Answers a timeout, the only possible error.
async fn given_up(_: BoxError) -> Problem {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "The request timed out. It may or may not have taken effect: retry it, with the same Idempotency-Key if it has one.",
    )
}

fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    Problem::internal(&anyhow::anyhow!("panicked: {text}")).into_response()
}
