//! Turns off Nagle's algorithm on the connections to Postgres. sqlx 0.9.0 leaves it on
//! (<https://github.com/transact-rs/sqlx/issues/4335>; its next release does not): the end of a statement that is
//! longer than a packet then waits until the server acknowledges its beginning, which takes up to 40 ms.
//! Remove this file with that release.

use std::{
    fs,
    os::fd::{BorrowedFd, RawFd},
};

use rustix::net::sockopt::{set_tcp_nodelay, tcp_nodelay};

/// The open files of this process, by number: on Linux and on macOS.
const OPEN_FILES: &str = "/dev/fd";

/// Turns it off on every TCP socket of this process, because sqlx does not show its own. Call it after connecting.
pub fn set_nodelay() {
    for entry in fs::read_dir(OPEN_FILES).into_iter().flatten().flatten() {
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok())
        else {
            continue;
        };
        // SAFETY: the file may be closed meanwhile, and its number used for another one. Both calls then fail,
        // or do to the other one what this function does to all.
        #[expect(unsafe_code, reason = "sqlx does not show its sockets")]
        let file = unsafe { BorrowedFd::borrow_raw(number) };
        // An error if it is no TCP socket.
        if tcp_nodelay(file) == Ok(false) {
            let _ = set_tcp_nodelay(file, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn nagles_algorithm_is_off_on_every_socket_after_a_connect() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(!client.nodelay().unwrap());
        set_nodelay();
        assert!(client.nodelay().unwrap());
    }
}
