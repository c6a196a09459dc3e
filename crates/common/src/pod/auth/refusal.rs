//! Why a request has no caller, and what would be accepted instead.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::pod::problem::Problem;

/// When to try again, in seconds, what could not be checked without the issuer.
const RETRY: u64 = 5;

/// Why a request has no caller: a problem, and with each 401 what would be accepted.
#[derive(Debug)]
pub struct Refusal {
    problem: Box<Problem>,
    /// The value of WWW-Authenticate, which every 401 has (RFC 9110, section 11.6.1).
    challenge: Option<&'static str>,
}

impl Refusal {
    /// 401: there was no token.
    pub(super) fn no_token(detail: &str) -> Self {
        Self::unauthorized("Bearer", detail)
    }

    /// 401: there was a token, and another one is needed (RFC 6750, section 3.1).
    pub(super) fn invalid_token(detail: &str) -> Self {
        Self::unauthorized(r#"Bearer error="invalid_token""#, detail)
    }

    /// 401: the issuer has no key by which the token is signed.
    pub(super) fn unknown_key() -> Self {
        Self::invalid_token("The token is signed with a key that its issuer does not have.")
    }

    /// 503: the token may be right, but what it is signed with is not known.
    pub(super) fn no_keys() -> Self {
        let detail = "The token issuer's keys cannot be fetched, so this token cannot be verified. Try again later.";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(RETRY).into()
    }

    fn unauthorized(challenge: &'static str, detail: &str) -> Self {
        let problem = Problem::new(StatusCode::UNAUTHORIZED, detail);
        Self { problem: problem.into(), challenge: Some(challenge) }
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self { problem: problem.into(), challenge: None }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = self.problem.into_response();
        if let Some(challenge) = self.challenge {
            let challenge = HeaderValue::from_static(challenge);
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}
