//! Text and times as Postgres can store them.

/// How much of a reason is stored, in characters. It may quote a message of a megabyte.
const MAX_REASON: usize = 1000;

/// Text as Postgres can store it: neither `text` nor `jsonb` takes NUL.
pub(crate) fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// A reason as it is stored: at most [`MAX_REASON`] characters.
pub(crate) fn shortened(reason: &str) -> String {
    let stored = storable(reason);
    match stored.char_indices().nth(MAX_REASON) {
        Some((end, _)) => format!("{}…", &stored[..end]),
        None => stored,
    }
}

/// A time truncated to microseconds, the precision of Postgres.
#[must_use]
pub fn to_microseconds(at: time::OffsetDateTime) -> time::OffsetDateTime {
    at - std::time::Duration::from_nanos(u64::from(at.nanosecond() % 1000))
}
