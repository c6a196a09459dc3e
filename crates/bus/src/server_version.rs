//! Warns once about a nats-server with a bug that no relay can work around.

use tracing::warn;

use crate::{connection::Bus, shutdown::Shutdown};

/// The first version whose consumers never get ahead of their stream.
const FIRST_SOUND: (u64, u64) = (2, 14);

/// Waits for the first connection, and warns if its server is too old.
pub(crate) async fn check(bus: Bus, shutdown: Shutdown) {
    tokio::select! {
        () = shutdown.begun() => return,
        _ = bus.connected() => {}
    }
    let version = bus.client.server_info().version;
    if is_older(&version) {
        warn!(
            nats.version = version,
            "upgrade nats-server to 2.14: when a stream loses its end, older versions leave its queue groups \
             ahead of it, and the groups miss what is published next"
        );
    }
}

/// Whether a version, such as `2.14.0-RC.1`, is older than [`FIRST_SOUND`]. One that does not parse is not.
fn is_older(version: &str) -> bool {
    let mut numbers = version.trim_start_matches('v').split('.').map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < FIRST_SOUND,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::is_older;

    #[test]
    fn versions_are_compared_as_numbers_not_as_text() {
        for older in ["2.9.25", "2.13.4", "v2.13.0", "2.2.0-beta.1", "1.4.1", "2.13"] {
            assert!(is_older(older), "{older}");
        }
        for sound in ["2.14.0", "2.14.0-RC.1", "v2.14.3", "2.15.1", "2.100.0", "3.0.0"] {
            assert!(!is_older(sound), "{sound}");
        }
        for unreadable in ["", "dev", "2", "2.x", "latest.1"] {
            assert!(!is_older(unreadable), "{unreadable}");
        }
    }
}
