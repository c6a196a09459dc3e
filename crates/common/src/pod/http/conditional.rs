//! Conditional requests (RFC 9110, section 13): every JSON answer to a GET has an ETag, and a
//! client that already has the answer gets a 304. A handler that sets its own ETag handles this
//! itself.

use axum::{
    body::{Body, to_bytes},
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};

use crate::pod::problem::Problem;

/// A client may cache the answer, but must revalidate it before each use.
pub(super) const REVALIDATE: HeaderValue = HeaderValue::from_static("private, no-cache");

pub(super) async fn conditional(request: Request, next: Next) -> Response {
    if request.method() != Method::GET {
        return next.run(request).await;
    }
    let known: Vec<HeaderValue> =
        request.headers().get_all(header::IF_NONE_MATCH).iter().cloned().collect();
    let response = next.run(request).await;
    if response.status() != StatusCode::OK || !wants_a_tag(response.headers()) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    // The body is in memory as a whole already.
    let body = match to_bytes(body, usize::MAX).await {
        Ok(body) => body,
        Err(error) => return Problem::internal(&error.into()).into_response(),
    };
    let tag = tag(&body);
    if let Ok(tag) = HeaderValue::from_str(&format!("W/{tag}")) {
        parts.headers.insert(header::ETAG, tag);
    }
    parts.headers.insert(header::CACHE_CONTROL, REVALIDATE);
    if known.iter().any(|list| holds(list, &tag)) {
        parts.status = StatusCode::NOT_MODIFIED;
        parts.headers.remove(header::CONTENT_TYPE);
        parts.headers.remove(header::CONTENT_LENGTH);
        return Response::from_parts(parts, Body::empty());
    }
    Response::from_parts(parts, Body::from(body))
}

fn wants_a_tag(headers: &HeaderMap) -> bool {
    let json = headers.get(header::CONTENT_TYPE).is_some_and(|value| value == "application/json");
    json && !headers.contains_key(header::ETAG)
}

/// The opaque part of a body's ETag: enough of its hash that no two bodies share it by chance.
fn tag(body: &[u8]) -> String {
    let hash = Sha256::digest(body);
    let hex: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("\"{hex}\"")
}

/// Returns whether a list of tags contains this one, by weak comparison. This service's tags
/// contain no comma.
fn holds(list: &HeaderValue, tag: &str) -> bool {
    let tags = list.to_str().unwrap_or_default().split(',').map(str::trim);
    tags.into_iter().any(|given| given == "*" || given.trim_start_matches("W/") == tag)
}
