//! Connections of members and relays that a test runs in its own process.

use bus::{Bus, Options, Shutdown};

/// How a client with this id connects to this nats-server: without a password, TLS, or imported streams.
///
/// # Panics
/// When the client id is not valid.
#[must_use]
pub fn options(nats_url: impl Into<String>, client_id: &str) -> Options {
    Options { servers: nats_url.into(), ..Options::new(client_id.parse().unwrap()) }
}

/// Connects. The connection's tasks end with the test, or when the test begins the shutdown.
///
/// # Panics
/// When an option is not valid.
pub async fn connect(options: &Options) -> (Bus, Shutdown) {
    let (shutdown, _) = Shutdown::new();
    (Bus::connect(options, &shutdown).await.unwrap(), shutdown)
}
