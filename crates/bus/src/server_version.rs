//! What an older nats-server does that no relay can make good: said once, at the start.

use tracing::warn;

use crate::{connection::Bus, shutdown::Shutdown};

/// The first version whose groups never stand ahead of their stream.
const SOUND: (u64, u64) = (2, 14);

/// Waits for the first connection, and warns when its server is older than it should be.
///
/// # Errors
/// Never; the type is what [`Shutdown::spawn`] takes.
pub(crate) async fn look(bus: Bus, shutdown: Shutdown) -> anyhow::Result<()> {
    tokio::select! {
        () = shutdown.begun() => return Ok(()),
        _ = bus.connected() => {}
    }
    let version = bus.client.server_info().version;
    if is_older(&version) {
        warn!(
            nats.version = version,
            "nats-server before 2.14 leaves a queue group ahead of a stream that has lost its end: what is \
             published there next passes the group by. Upgrade it"
        );
    }
    Ok(())
}

/// Whether a version, such as `2.14.0-RC.1`, is older than [`SOUND`]. What cannot be read is not.
fn is_older(version: &str) -> bool {
    let mut numbers = version.trim_start_matches('v').split('.').map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < SOUND,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::is_older;

    #[test]
    fn a_version_is_compared_by_its_numbers_and_not_by_its_text() {
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
