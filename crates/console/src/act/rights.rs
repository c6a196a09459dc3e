//! Who may act rather than only look. Acting means posting, publishing, and breaking things.
//!
//! - With `CONSOLE_TOKEN`: anyone who sends it as a bearer token.
//! - Without, on a loopback address: anyone on this machine.
//! - Without, elsewhere: nobody.
//!
//! Another website open in the same browser must not act either. Its requests have its own `Origin`, and it cannot
//! send JSON here: that takes a preflight, which fails because there is no CORS.

use std::net::SocketAddr;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use common::pod::{bearer::Bearer, problem::Problem, secret::Secret};
use serde::Serialize;

/// Who may act.
#[derive(Debug, Clone)]
pub enum Rights {
    /// Anyone who reaches the console, which listens on this machine only.
    Open,
    /// Anyone with this token.
    Token(Bearer),
    /// Nobody.
    ReadOnly,
}

/// What the page knows of [`Rights`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Acting needs no token.
    Open,
    /// Acting needs a token.
    Token,
    /// Nobody may act.
    ReadOnly,
}

impl Rights {
    /// The rights at a console that listens here.
    #[must_use]
    pub fn new(token: Option<&Secret>, address: SocketAddr) -> Self {
        match token {
            Some(token) => Self::Token(Bearer::new(token)),
            None if address.ip().is_loopback() => Self::Open,
            None => Self::ReadOnly,
        }
    }

    /// What the page needs to know.
    #[must_use]
    pub fn access(&self) -> Access {
        match self {
            Self::Open => Access::Open,
            Self::Token(_) => Access::Token,
            Self::ReadOnly => Access::ReadOnly,
        }
    }

    fn check(&self, headers: &HeaderMap) -> Result<(), Problem> {
        if !is_of_our_page(headers) {
            const WHY: &str = "Requests from other websites are not accepted.";
            return Err(Problem::new(StatusCode::FORBIDDEN, WHY));
        }
        match self {
            Self::Open => Ok(()),
            Self::Token(expected) => {
                let problem = || {
                    Problem::new(
                        StatusCode::UNAUTHORIZED,
                        "This requires the console's token, as `Authorization: Bearer`.",
                    )
                };
                expected.is_in(headers).then_some(()).ok_or_else(problem)
            }
            Self::ReadOnly => Err(Problem::new(
                StatusCode::FORBIDDEN,
                "This console is read-only: it has no CONSOLE_TOKEN.",
            )),
        }
    }
}

/// Whether the request comes from the console's own page, or from a program, which sends neither header.
fn is_of_our_page(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let same_site = text(header::HeaderName::from_static("sec-fetch-site"))
        .is_none_or(|site| site == "same-origin");
    let Some(origin) = text(header::ORIGIN) else { return same_site };
    let of = |text: &str| text.parse::<Authority>().ok();
    let origin = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    let (origin, host) = (origin.and_then(of), text(header::HOST).and_then(of));
    same_site && origin.is_some() && origin == host
}

/// Refuses requests that may not act.
pub async fn may_act(State(rights): State<Rights>, request: Request, next: Next) -> Response {
    match rights.check(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_page_of_another_website_may_not_act() {
        let ours = ("host", "localhost:3900");
        assert!(is_of_our_page(&headers(&[ours])));
        assert!(is_of_our_page(&headers(&[ours, ("origin", "http://localhost:3900")])));
        for origin in
            ["null", "http://localhost:3000", "http://evil.example", "https://localhost", ""]
        {
            assert!(!is_of_our_page(&headers(&[ours, ("origin", origin)])), "{origin}");
        }
        for site in ["cross-site", "same-site", "none"] {
            assert!(!is_of_our_page(&headers(&[ours, ("sec-fetch-site", site)])), "{site}");
        }
    }

    #[test]
    fn without_a_token_a_console_may_act_only_if_it_listens_on_this_machine_alone() {
        let (here, everywhere) = ("127.0.0.1:1".parse().unwrap(), "0.0.0.0:1".parse().unwrap());
        assert!(Rights::new(None, here).check(&headers(&[])).is_ok());
        assert!(Rights::new(None, everywhere).check(&headers(&[])).is_err());
        let token: Secret = "right".into();
        for address in [here, everywhere] {
            let rights = Rights::new(Some(&token), address);
            assert!(rights.check(&headers(&[("authorization", "Bearer right")])).is_ok());
            assert!(rights.check(&headers(&[("authorization", "Bearer wrong")])).is_err());
            assert!(rights.check(&headers(&[("authorization", "right")])).is_err());
            assert!(rights.check(&headers(&[])).is_err());
        }
    }
}
