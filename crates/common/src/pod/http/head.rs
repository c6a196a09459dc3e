//! Reads a request until its head is complete, before hyper gets the connection. A connection that
//! sends nothing, or half a head, costs little more than the bytes received.

use std::io::ErrorKind::WouldBlock;

use bytes::{Buf, BytesMut};
use tokio::net::TcpStream;

use super::place::Place;

/// The largest head of a request (its line and its headers), in bytes. A larger one is answered
/// 431.
pub const MAX_HEAD: usize = 16 * 1024;
/// The most headers of a request. More are answered 431. It is hyper's own limit; setting it there would cost an
/// allocation per request.
pub const MAX_HEADERS: usize = 100;

/// Enough for most heads, in bytes.
const USUAL_HEAD: usize = 1024;

/// Reads until the head of a request is complete, or cannot become valid. `received` holds what
/// arrived with the previous request. Returns the bytes received; `None` if the client has disconnected.
pub(super) async fn read(
    stream: &TcpStream,
    mut received: BytesMut,
    place: &Place,
) -> Option<BytesMut> {
    let mut searched = 0;
    let mut skipped = 0;
    loop {
        skipped += skip_empty_lines(&mut received);
        if skipped > MAX_HEAD {
            return None;
        }
        if received.is_empty() {
            // Frees the buffer.
            received = BytesMut::new();
        } else {
            place.receiving(received.capacity());
            if is_complete(&received, searched) {
                return Some(received);
            }
        }
        searched = received.len();
        stream.readable().await.ok()?;
        if received.capacity() == received.len() {
            received.reserve(received.len().max(USUAL_HEAD));
        }
        match stream.try_read_buf(&mut received) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(error) if error.kind() == WouldBlock => {}
            Err(_) => return None,
        }
    }
}

/// Removes empty lines, which some clients send after a body (RFC 9112, 2.2). Returns how many
/// bytes it removed.
fn skip_empty_lines(received: &mut BytesMut) -> usize {
    let empty = received.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    received.advance(empty);
    empty
}

/// Returns whether hyper can take over. The first `searched` bytes contain no end of a head.
fn is_complete(received: &[u8], searched: usize) -> bool {
    let may_be_a_method = received.first().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let new = &received[searched.saturating_sub(2)..];
    let ends = new.windows(2).any(|bytes| bytes == b"\n\n")
        || new.windows(3).any(|bytes| bytes == b"\n\r\n");
    ends || !may_be_a_method || received.len() >= MAX_HEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_ends_with_its_empty_line_however_it_is_split() {
        let head = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        for lines in [head.to_vec(), head.iter().copied().filter(|&byte| byte != b'\r').collect()] {
            for end in 1..=lines.len() {
                for searched in 0..end {
                    let complete = is_complete(&lines[..end], searched);
                    assert_eq!(complete, end == lines.len(), "{searched} of {end}");
                }
            }
        }
    }

    #[test]
    fn the_server_does_not_wait_for_more_of_a_head_that_is_invalid_or_too_long() {
        assert!(is_complete(b"\x16\x03\x01", 0));
        assert!(is_complete(&[b'a'; MAX_HEAD], MAX_HEAD - 1));
        assert!(!is_complete(&[b'a'; MAX_HEAD - 1], 0));
    }

    #[test]
    fn empty_lines_before_a_request_are_skipped() {
        let mut received = BytesMut::from(&b"\r\n\r\nGET"[..]);
        assert_eq!(skip_empty_lines(&mut received), 4);
        assert_eq!(received, b"GET"[..]);
    }
}
