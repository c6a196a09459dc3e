//! The answer of a service.

use axum::http::{HeaderMap, StatusCode};
use reqwest::RequestBuilder;
use serde_json::Value;
use tokio::time::Instant;

use crate::PATIENCE;

/// A complete response.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: String,
}

/// Accessors and checks. A panic shows the body.
#[allow(clippy::missing_panics_doc, reason = "every function here panics on an unexpected answer")]
impl Answer {
    /// Sends a request and reads the response to its end.
    pub async fn of(request: RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        Self { status, headers, body: response.text().await.unwrap() }
    }

    /// Repeats a request until it is not answered 503, as clients do: on a starved machine, a service may not reach
    /// its database in time. Only for requests that may be repeated.
    pub async fn once_available(request: impl AsyncFn() -> Self) -> Self {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = request().await;
            if answer.status != StatusCode::SERVICE_UNAVAILABLE {
                return answer;
            }
            assert!(Instant::now() < deadline, "still unavailable: {}", answer.body);
        }
    }

    /// Returns a header's value; empty without the header.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Returns the body as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{}", self.body))
    }

    /// Returns the `id` of the resource in the body.
    #[must_use]
    pub fn id(&self) -> String {
        self.json()["id"].as_str().unwrap_or_else(|| panic!("{}", self.body)).to_owned()
    }

    /// Checks that it has this status, and is a problem with the same status.
    pub fn is_problem(&self, status: StatusCode) {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["status"], status.as_u16());
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{}", self.body);
    }

    /// Returns the problem's `detail`; empty if it has none.
    #[must_use]
    pub fn detail(&self) -> String {
        self.json()["detail"].as_str().unwrap_or_default().to_owned()
    }

    /// Returns each refused field with the reason.
    #[must_use]
    pub fn errors(&self) -> Vec<(String, String)> {
        let errors = self.json()["errors"].as_array().cloned().unwrap_or_default();
        let text = |error: &Value, key: &str| error[key].as_str().unwrap().to_owned();
        errors.iter().map(|error| (text(error, "field"), text(error, "message"))).collect()
    }

    /// Checks that it is a problem that refuses exactly these fields, for these reasons.
    pub fn refuses(&self, status: StatusCode, fields: &[(&str, &str)]) {
        self.is_problem(status);
        let given = self.errors();
        let given: Vec<(&str, &str)> = given.iter().map(|(a, b)| (&**a, &**b)).collect();
        assert_eq!(given, fields);
    }
}
