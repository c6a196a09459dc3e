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
mod request;
pub mod server;
mod table;
mod turn;
mod watched;

use std::{sync::Arc, time::Duration};

use axum::{
    BoxError, Router,
    error_handling::HandleErrorLayer,
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
};
use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use tokio::sync::Semaphore;
use tower::ServiceBuilder;
use tower_http::{
    catch_panic::CatchPanicLayer,
    cors::{AllowOrigin, CorsLayer},
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
    set_header::SetResponseHeaderLayer,
};

use super::problem::{Problem, UNKNOWN_OUTCOME};
use bus::{ClientId, panic_message};

pub use exchange::Static;
pub use head::{MAX_HEAD, MAX_HEADERS};
pub use intake::{BODY_TIMEOUT, MAX_BODY, MAX_REQUEST_ID, MAX_URL};
pub use listen::Http;
pub use phase::Deadlines;

/// How long a handler may take once the request has arrived completely. Longer than the database's
/// timeouts, so that the database's error comes first.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a browser may cache the answer about an origin.
const CORS_MAX_AGE: Duration = Duration::from_hours(1);

/// The settings of the middleware.
#[derive(Debug, Clone)]
pub struct MiddlewareSettings {
    /// How many requests may be in progress at once.
    pub concurrent: usize,
    /// The origins whose pages may call the API from a browser; `*` allows all.
    pub origins: Vec<HeaderValue>,
    /// The process that serves it: on every log line of a request.
    pub client_id: ClientId,
}

impl Default for MiddlewareSettings {
    fn default() -> Self {
        Self { concurrent: 128, origins: Vec::new(), client_id: ClientId::of_this_process() }
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
                .layer(from_fn_with_state(settings.client_id.clone(), request::traced))
                .layer(from_fn(conditional::conditional))
                .layer(from_fn(intake::complete))
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
            request::TRACEPARENT,
        ])
        .expose_headers([
            header::ETAG,
            header::LOCATION,
            header::RETRY_AFTER,
            named("idempotency-replayed"),
            named("x-request-id"),
            request::TRACEPARENT,
        ])
        .max_age(CORS_MAX_AGE);
    Some(layer)
}

/// Describes the HTTP metrics.
pub(super) fn describe_metrics() {
    let requests = "How long requests took, by method, route, and the answer's status.";
    describe_histogram!("http_request_seconds", Unit::Seconds, requests);
    describe_gauge!("http_connections", "Open connections of the API, or of probes and metrics.");
    let ended = "Connections ended because their client was late, or to make room.";
    describe_counter!("http_connections_ended_total", ended);
}

/// Answers a timeout, the only possible error.
async fn given_up(_: BoxError) -> Problem {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        format!("The request timed out. {UNKNOWN_OUTCOME}"),
    )
}

fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response {
    let text = panic_message(&*panic);
    Problem::internal(&anyhow::anyhow!("panicked: {text}")).into_response()
}
