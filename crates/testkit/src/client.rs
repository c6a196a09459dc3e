//! HTTP clients.

use std::time::Duration;

/// Installs this process's cryptography provider, which HTTP clients and servers need before they
/// are built, even without TLS. Every test may call it.
pub fn install_crypto() {
    // An error only means that another test was first.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Returns an HTTP client with a timeout of five seconds per request.
///
/// # Panics
/// If the client cannot be built.
#[must_use]
pub fn client() -> reqwest::Client {
    install_crypto();
    reqwest::Client::builder().timeout(Duration::from_secs(5)).build().unwrap()
}
