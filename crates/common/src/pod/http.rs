//! The HTTP stack that every API of this system stands on: limits on what comes in, ids and trace
//! context through, problem details and security headers out.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context;
use axum::{
    BoxError, Router,
    error_handling::HandleErrorLayer,
    extract::{DefaultBodyLimit, Request},
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
};
use tokio::{net::TcpListener, time::Instant};
use tower::{ServiceBuilder, limit::GlobalConcurrencyLimitLayer};
use tower_http::{
    catch_panic::CatchPanicLayer,
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
    set_header::SetResponseHeaderLayer,
};
use tracing::{debug, info};

use super::{problem::Problem, shutdown::Shutdown, trace::TraceContext};

/// The largest request body, in bytes: a ticket needs under one kilobyte.
pub const MAX_BODY: usize = 16 * 1024;
/// How long one request may take. Above the database's own timeouts, so that theirs speak first.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Puts an API behind the stack. At most `concurrent` requests run at once; a further one is
/// answered 503 with Retry-After at once rather than queued.
pub fn stack(api: Router, concurrent: usize) -> Router {
    let header =
        |name, value| SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value));
    api.fallback(|| async { Problem::new(StatusCode::NOT_FOUND, "There is nothing at this path.") })
        .method_not_allowed_fallback(|| async {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "The Allow header lists this path's methods.",
            )
        })
        .layer(
            ServiceBuilder::new()
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
                .layer(HandleErrorLayer::new(turned_away))
                .load_shed()
                .layer(GlobalConcurrencyLimitLayer::new(concurrent))
                .timeout(REQUEST_TIMEOUT)
                .layer(CatchPanicLayer::custom(panicked))
                .layer(DefaultBodyLimit::max(MAX_BODY)),
        )
}

/// Runs the request within its trace, and logs how it went.
async fn traced(request: Request, next: Next) -> Response {
    let given = request.headers().get(TRACEPARENT).and_then(|value| value.to_str().ok());
    let trace = given
        .and_then(|text| text.parse().ok())
        .map_or_else(TraceContext::new_root, TraceContext::child);
    let begun = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = trace.scope(next.run(request)).await;
    if let Ok(value) = HeaderValue::from_str(&trace.to_string()) {
        response.headers_mut().insert(TRACEPARENT, value);
    }
    metrics::histogram!("http_request_seconds", "method" => method.to_string(), "status" => response.status().as_str().to_owned())
        .record(begun.elapsed());
    debug!(
        http.method = %method,
        http.path = path,
        http.status = response.status().as_u16(),
        elapsed.ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        trace.id = trace.trace_id(),
        "request",
    );
    response
}

async fn turned_away(error: BoxError) -> Problem {
    if error.is::<tower::timeout::error::Elapsed>() {
        return Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "The request took too long and was given up. Whether it took effect is not known: repeat it, with the same Idempotency-Key if it has one.",
        );
    }
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "Too many requests are under way. Try again.")
}

fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    Problem::internal(&anyhow::anyhow!("panicked: {text}")).into_response()
}

/// Opens the port, before anything else is opened: a taken port is the commonest mistake on a
/// laptop, and it should be the first thing to be said.
///
/// # Errors
/// When the address cannot be bound.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

/// Serves until the process is asked to stop, then finishes the requests under way.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    info!(http.address = %listener.local_addr()?, "listening");
    // A bare router would be copied, with all that its handlers hold, for each connection.
    axum::serve(listener, router.into_make_service())
        .with_graceful_shutdown(async move { shutdown.begun().await })
        .await
        .context("the HTTP server failed")
}
