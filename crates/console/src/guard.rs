//! Which requests are answered: those whose Host header names this console.
//!
//! A page of a stranger that a person visits can have its own name resolve to a loopback address (DNS
//! rebinding), and then read whatever a server there answers. It cannot change the Host header, which has
//! that name.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{StatusCode, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use common::pod::problem::Problem;

/// The names that the console may be called by, without ports: a port is no secret.
#[derive(Debug, Clone)]
pub struct Hosts(Arc<[String]>);

impl Hosts {
    /// Loopback under its usual names, and these.
    #[must_use]
    pub fn new(others: &[String]) -> Self {
        let usual = ["localhost", "127.0.0.1", "[::1]"].map(ToOwned::to_owned);
        let others = others.iter().map(|name| name.to_ascii_lowercase());
        Self(usual.into_iter().chain(others).collect())
    }

    /// Whether `host[:port]` names this console.
    #[must_use]
    pub fn know(&self, host: &str) -> bool {
        let Ok(authority) = host.parse::<Authority>() else { return false };
        if authority.as_str().contains('@') {
            return false;
        }
        let host = authority.host().to_ascii_lowercase();
        self.0.contains(&host)
    }
}

/// Answers 421 unless the Host header names this console.
pub async fn known_host(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    let mut given = request.headers().get_all(header::HOST).iter();
    let host = given.next().and_then(|host| host.to_str().ok());
    // Two of them are read differently by different programs.
    match (host, given.next()) {
        (Some(host), None) if hosts.know(host) => next.run(request).await,
        _ => Problem::new(
            StatusCode::MISDIRECTED_REQUEST,
            "This host name is not allowed. Use localhost, or add the name to CONSOLE_HOSTS.",
        )
        .into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_console_are_known() {
        let hosts = Hosts::new(&["Console.example.com".to_owned()]);
        for known in ["localhost", "LOCALHOST:3900", "127.0.0.1:1", "[::1]:3900"] {
            assert!(hosts.know(known), "{known}");
        }
        assert!(hosts.know("console.example.com:80"));
        for unknown in [
            "",
            "evil.example",
            "evil.example:3900",
            "localhost.evil.example",
            "localhost@evil",
            "evil@localhost",
            "localhost evil",
            "127.0.0.2",
            "localhost/x",
            "localhost.",
        ] {
            assert!(!hosts.know(unknown), "{unknown}");
        }
    }
}
