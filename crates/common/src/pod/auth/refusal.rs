//! The answer to a request without a valid caller: a problem, and a challenge that names the accepted scheme.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::pod::problem::Problem;

/// Seconds after which to retry a token that could not be verified without the issuer.
const RETRY: u64 = 5;

/// Why a request has no caller: a problem, and for a 401 the challenge.
#[derive(Debug)]
pub struct Refusal {
    problem: Box<Problem>,
    /// The value of WWW-Authenticate, which every 401 has (RFC 9110, section 11.6.1).
    challenge: Option<&'static str>,
}

impl Refusal {
    /// 401: there is no token.
    pub(super) fn no_token(detail: &str) -> Self {
        Self::unauthorized("Bearer", detail)
    }

    /// 401: there is a token, but not a valid one (RFC 6750, section 3.1).
    pub(super) fn invalid_token(detail: &str) -> Self {
        Self::unauthorized(r#"Bearer error="invalid_token""#, detail)
    }

    /// 401: the issuer does not have the key that signed the token.
    pub(super) fn unknown_key() -> Self {
        Self::invalid_token("The token is signed with a key that its issuer does not have.")
    }

    /// 503: the token may be valid, but its key is unknown.
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
