//! Free TCP ports on loopback, below the range from which the kernel takes ports for outgoing
//! connections: a server that is restarted finds its port still free.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::bail;

/// Ports to choose from. Linux gives 32768 and above to outgoing connections.
const RANGE: std::ops::Range<u16> = 18_000..32_000;
/// How many ports to try.
const TRIES: usize = 200;

/// Whether nobody listens on the port.
#[must_use]
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// A port that was free a moment ago.
///
/// # Errors
/// When none is.
pub fn free() -> anyhow::Result<u16> {
    for _ in 0..TRIES {
        let port = rand::random_range(RANGE);
        if is_free(port) {
            return Ok(port);
        }
    }
    bail!("no free port between {} and {}", RANGE.start, RANGE.end)
}

/// The port that is wanted if it is free, else another.
///
/// # Errors
/// When none is.
pub fn free_or_other(wanted: u16) -> anyhow::Result<u16> {
    if is_free(wanted) { Ok(wanted) } else { free() }
}
