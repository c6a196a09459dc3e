//! HTTP clients.

use std::time::Duration;

/// Chooses the cryptography of this process, which clients and servers want to know before they are made,
/// whether they use it or not. Can be called by every test.
pub fn install_crypto() {
    // An error says only that another test was first.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// An HTTP client that gives up on a request after five seconds.
///
/// # Panics
/// When the client cannot be built.
#[must_use]
pub fn client() -> reqwest::Client {
    install_crypto();
    reqwest::Client::builder().timeout(Duration::from_secs(5)).build().unwrap()
}
