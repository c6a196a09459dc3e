//! HTTP API errors as problem details (RFC 9457). A 4xx says what was wrong and where. A 5xx says
//! only that something failed; its cause is logged once, here.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use bus::{BusError, database_error, database_is_away, database_is_busy, database_is_gone};

use super::database;

/// An `application/problem+json` answer.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Problem {
    /// The kind of problem, as a URI reference: `about:blank` when the status says it all.
    #[serde(rename = "type")]
    #[schema(example = "about:blank")]
    pub kind: String,
    /// The kind in words, the same for every occurrence.
    pub title: String,
    /// The HTTP status code.
    pub status: u16,
    /// What was wrong this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The invalid fields of the request, up to twenty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 20)]
    pub errors: Vec<FieldError>,
    /// Seconds after which a retry may succeed; sent as a header.
    #[serde(skip)]
    #[schema(ignore)]
    pub retry_after: Option<u64>,
}

/// What a client should do after a 5xx that does not tell whether the request took effect.
pub(super) const UNKNOWN_OUTCOME: &str = "The request may or may not have taken effect: retry it, with the same \
                                          Idempotency-Key if it has one.";
/// The most fields that an answer names.
pub const MAX_ERRORS: usize = 20;
/// The most characters of client input that an answer repeats in one place.
const MAX_REPEATED: usize = 200;

/// An invalid field of the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// The field's name in the request's body, path, query or headers.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

impl FieldError {
    /// Shortens text that comes from the client.
    fn shortened(self) -> Self {
        Self { field: shortened(self.field), message: shortened(self.message) }
    }
}

fn shortened(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(MAX_REPEATED) {
        text.truncate(end);
        text.push('…');
    }
    text
}

impl Problem {
    /// A problem that its status explains.
    #[must_use]
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank".to_owned(),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail: Some(detail.into()),
            errors: Vec::new(),
            retry_after: (status == StatusCode::SERVICE_UNAVAILABLE).then_some(1),
        }
    }

    /// 422 with every invalid field, or the first twenty of them.
    #[must_use]
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        let more = errors.len().saturating_sub(MAX_ERRORS);
        let errors: Vec<FieldError> =
            errors.into_iter().take(MAX_ERRORS).map(FieldError::shortened).collect();
        let mut detail = errors
            .iter()
            .map(|error| format!("{} {}", error.field, error.message))
            .collect::<Vec<_>>()
            .join("; ");
        if more > 0 {
            detail.push_str(&format!("; and {more} more"));
        }
        Self { errors, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail) }
    }

    /// Asks the client to retry after this many seconds.
    #[must_use]
    pub fn retry_after(self, seconds: u64) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    /// 500 or 503 for a failure behind the API. The cause is logged, never shown.
    #[must_use]
    pub fn internal(error: &anyhow::Error) -> Self {
        if is_unavailable(error) {
            let text = format!("{error:#}");
            // The database's watch logs an outage once; the requests that it affects do not.
            if database::is_away() || of_the_database(error).any(database_is_gone) {
                tracing::debug!(error = text, "database unavailable");
            } else {
                tracing::warn!(error = text, "database unavailable");
            }
            return Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("The database is unavailable. {UNKNOWN_OUTCOME}"),
            );
        }
        tracing::error!(error = format!("{error:#}"), "request failed");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "Internal error. The service log has the details.",
        )
    }
}

/// Returns whether the database is unreachable or overloaded, or a lock is held for long. All of
/// these pass.
fn is_unavailable(error: &anyhow::Error) -> bool {
    of_the_database(error).any(|error| database_is_away(error) || database_is_busy(error))
}

fn of_the_database(error: &anyhow::Error) -> impl Iterator<Item = &sqlx::Error> {
    error.chain().filter_map(database_error)
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry_after = self.retry_after;
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        Self::internal(&error.into())
    }
}

impl From<BusError> for Problem {
    fn from(error: BusError) -> Self {
        Self::internal(&error.into())
    }
}
