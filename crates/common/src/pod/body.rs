//! A JSON request body, taken field by field, so that a refusal names each bad field at once and
//! not just the first.

use std::collections::BTreeMap;

use axum::{
    body::Bytes,
    extract::{FromRequest, Request, rejection::BytesRejection},
    http::{StatusCode, header},
};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::{
    problem::{FieldError, Problem},
    repeated_keys::repeated_keys,
};

/// The fields of a JSON object that came as a request's body. Take each with [`Self::required`] or
/// [`Self::optional`], report what is wrong with its value through [`Self::refuse`], and end with
/// [`Self::finish`], which refuses what nobody took.
#[derive(Debug)]
pub struct Fields {
    body: Bytes,
    raw: BTreeMap<String, Box<RawValue>>,
    errors: Vec<FieldError>,
}

impl Fields {
    /// Reads a body.
    ///
    /// # Errors
    /// 400 when it is not a JSON object; 422 when an object in it has a key twice, of which readers would
    /// take one or the other.
    pub fn parse(body: Bytes) -> Result<Self, Problem> {
        let raw = serde_json::from_slice(&body).map_err(|error| {
            let detail = format!("The body is not a JSON object: {error}");
            Problem::new(StatusCode::BAD_REQUEST, detail)
        })?;
        match repeated_keys(&body) {
            keys if keys.is_empty() => Ok(Self { body, raw, errors: Vec::new() }),
            keys => {
                let message = "must be given once".to_owned();
                let error = |field| FieldError { field, message: message.clone() };
                Err(Problem::invalid(keys.into_iter().map(error).collect()))
            }
        }
    }

    /// The body's bytes as they came.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.body
    }

    /// A field that must be there. `None` once an error is noted.
    pub fn required<T: DeserializeOwned>(&mut self, field: &str) -> Option<T> {
        if !self.raw.contains_key(field) {
            self.refuse(field, "is required");
        }
        self.optional(field)
    }

    /// A field that may be missing. `null` is not missing: it is parsed like any value.
    pub fn optional<T: DeserializeOwned>(&mut self, field: &str) -> Option<T> {
        let raw = self.raw.remove(field)?;
        match serde_json::from_str(raw.get()) {
            Ok(value) => Some(value),
            Err(error) => {
                self.refuse(field, without_position(&error));
                None
            }
        }
    }

    /// Notes that a field's value will not do.
    pub fn refuse(&mut self, field: &str, message: impl Into<String>) {
        self.errors.push(FieldError { field: field.to_owned(), message: message.into() });
    }

    /// Ends the reading, with what was made of the fields: `None` only where an error was noted.
    ///
    /// # Errors
    /// 422 with every error noted, and one for each field that nobody took.
    pub fn finish<T>(mut self, made: Option<T>) -> Result<T, Problem> {
        for field in std::mem::take(&mut self.raw).into_keys() {
            self.refuse(&field, "is not a field of this request");
        }
        if !self.errors.is_empty() {
            return Err(Problem::invalid(self.errors));
        }
        // A bug of the parser, never of the client.
        let unreported = || anyhow::anyhow!("a field was refused without a reason");
        made.ok_or_else(|| Problem::internal(&unreported()))
    }
}

/// What serde says, less the position within the single field.
fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let at = text.rfind(" at line ").unwrap_or(text.len());
    text[..at].to_owned()
}

impl<S: Send + Sync> FromRequest<S> for Fields {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let json = request
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split(';').next())
            .is_some_and(|value| value.trim().eq_ignore_ascii_case("application/json"));
        if !json {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "The Content-Type must be application/json.",
            ));
        }
        let body =
            Bytes::from_request(request, state).await.map_err(|rejection| refused(&rejection))?;
        Self::parse(body)
    }
}

/// A body that could not be read: too large (413), or cut off on its way (400).
fn refused(rejection: &BytesRejection) -> Problem {
    let status = rejection.status();
    Problem::new(status, rejection.body_text())
}
