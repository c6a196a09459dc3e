//! The host names that a server accepts in the Host header.
//!
//! A malicious page that someone visits can make its own name resolve to a loopback address (DNS rebinding), and
//! then read what a server there answers. It cannot change the Host header, which has that name.

use std::sync::Arc;

use axum::http::{HeaderMap, header, uri::Authority};

/// Names without ports: a port is no secret.
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

    /// Whether `host[:port]` is one of them.
    #[must_use]
    pub fn allow(&self, host: &str) -> bool {
        let Ok(authority) = host.parse::<Authority>() else { return false };
        if authority.as_str().contains('@') {
            return false;
        }
        let host = authority.host().to_ascii_lowercase();
        self.0.contains(&host)
    }

    /// Whether a request names one of them in its only Host header.
    #[must_use]
    pub fn allow_request(&self, headers: &HeaderMap) -> bool {
        let mut given = headers.get_all(header::HOST).iter();
        let host = given.next().and_then(|host| host.to_str().ok());
        // Of two Host headers, some programs use the first, others the last.
        given.next().is_none() && host.is_some_and(|host| self.allow(host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_servers_host_names_are_accepted() {
        let hosts = Hosts::new(&["Console.example.com".to_owned()]);
        for known in ["localhost", "LOCALHOST:3900", "127.0.0.1:1", "[::1]:3900"] {
            assert!(hosts.allow(known), "{known}");
        }
        assert!(hosts.allow("console.example.com:80"));
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
            assert!(!hosts.allow(unknown), "{unknown}");
        }
    }
}
