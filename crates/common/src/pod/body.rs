//! Parses a JSON request body field by field, so that a refusal names every invalid field and not
//! just the first.

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

/// The fields of a JSON request body. Take each with [`Self::required`] or [`Self::optional`],
/// report invalid values through [`Self::refuse`], and end with [`Self::finish`], which refuses all
/// fields that were not taken.
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
    /// 400 if it is not a JSON object. 422 if an object in it has a key twice, because readers
    /// differ on which one counts.
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

    /// Returns the body's bytes as received.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.body
    }

    /// Takes a required field. `None` means that an error is noted.
    pub fn required<T: DeserializeOwned>(&mut self, field: &str) -> Option<T> {
        if !self.raw.contains_key(field) {
            self.refuse(field, "is required");
        }
        self.optional(field)
    }

    /// Takes an optional field. `null` is not absent: it is parsed like any value.
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

    /// Notes that a field's value is invalid.
    pub fn refuse(&mut self, field: &str, message: impl Into<String>) {
        self.errors.push(FieldError { field: field.to_owned(), message: message.into() });
    }

    /// Ends the parsing, with what was built from the fields: `None` only if an error was noted.
    ///
    /// # Errors
    /// 422 with every error noted, and one for each field that was not taken.
    pub fn finish<T>(mut self, made: Option<T>) -> Result<T, Problem> {
        for field in std::mem::take(&mut self.raw).into_keys() {
            self.refuse(&field, "is not a field of this request");
        }
        if !self.errors.is_empty() {
            return Err(Problem::invalid(self.errors));
        }
        // A bug of the parser, never the client's fault.
        let unreported = || anyhow::anyhow!("a field was refused without a reason");
        made.ok_or_else(|| Problem::internal(&unreported()))
    }
}

/// Returns serde's message without the position, which counts from the field's start.
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

/// Returns the problem for a body that could not be read: too large (413) or cut off (400).
fn refused(rejection: &BytesRejection) -> Problem {
    let status = rejection.status();
    Problem::new(status, rejection.body_text())
}
