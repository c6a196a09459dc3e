//! The header Idempotency-Key: a client's name for one request, so that it can repeat it without
//! knowing whether it took effect.

use axum::http::{HeaderMap, HeaderName};
use common::pod::{page::bad_request, problem::Problem};

use super::single_header;

/// The header's name.
pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The longest key, in characters.
const MAX_LENGTH: usize = 255;

/// The request's key: 1–255 visible ASCII characters. `None` without the header.
///
/// # Errors
/// 400 when it is malformed.
pub(super) fn of(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(bytes) = single_header(headers, &IDEMPOTENCY_KEY)? else { return Ok(None) };
    let fits = (1..=MAX_LENGTH).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic);
    match str::from_utf8(bytes) {
        Ok(key) if fits => Ok(Some(key.to_owned())),
        _ => Err(bad_request("Idempotency-Key", "must be 1-255 visible ASCII characters")),
    }
}
