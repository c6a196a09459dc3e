//! What a service answered. The tests of orders include this file as well.

use axum::http::{HeaderMap, StatusCode};
use reqwest::RequestBuilder;
use serde_json::Value;

/// A response that was read to its end.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) async fn of(request: RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        Self { status, headers, body: response.text().await.unwrap() }
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{}", self.body))
    }

    pub(crate) fn id(&self) -> String {
        self.json()["id"].as_str().unwrap_or_else(|| panic!("{}", self.body)).to_owned()
    }

    /// It has this status, and is a problem that says so.
    pub(crate) fn is_problem(&self, status: StatusCode) {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["status"], status.as_u16());
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{}", self.body);
    }

    pub(crate) fn detail(&self) -> String {
        self.json()["detail"].as_str().unwrap_or_default().to_owned()
    }

    /// Each field that was refused, and why.
    pub(crate) fn errors(&self) -> Vec<(String, String)> {
        let errors = self.json()["errors"].as_array().cloned().unwrap_or_default();
        let text = |error: &Value, key: &str| error[key].as_str().unwrap().to_owned();
        errors.iter().map(|error| (text(error, "field"), text(error, "message"))).collect()
    }

    /// It is a problem that refuses exactly these fields, for these reasons.
    pub(crate) fn refuses(&self, status: StatusCode, fields: &[(&str, &str)]) {
        self.is_problem(status);
        let given = self.errors();
        let given: Vec<(&str, &str)> = given.iter().map(|(a, b)| (&**a, &**b)).collect();
        assert_eq!(given, fields);
    }
}
