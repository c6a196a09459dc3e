//! Connections of members and relays that a test runs in its own process.

use bus::{Bus, Options, Shutdown};

/// Returns the options of a client with this id for this nats-server: no password, no TLS, no
/// imported streams.
///
/// # Panics
/// If the client id is not valid.
#[must_use]
pub fn options(nats_url: impl Into<String>, client_id: &str) -> Options {
    Options { servers: nats_url.into(), ..Options::new(client_id.parse().unwrap()) }
}

/// Connects. The connection's tasks end with the test, or when the test begins the shutdown.
///
/// # Panics
/// If an option is not valid.
pub async fn connect(options: &Options) -> (Bus, Shutdown) {
    let (shutdown, _) = Shutdown::new();
    (Bus::connect(options, &shutdown).await.unwrap(), shutdown)
}
