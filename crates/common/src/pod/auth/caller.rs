//! The caller of a request: a buyer or a seller, by name.

use std::{fmt, str::FromStr};

use crate::events::checked;

/// The longest name, in characters.
const LONGEST: usize = 200;
// A name that a token may have must be accepted in an event.
const _: () = assert!(LONGEST <= checked::LONGEST);

/// The caller of a request, by the name in their token: 1–200 characters, none of them a control
/// character. Names are compared exactly: `Anna` is not `anna`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller(String);

/// The text is not the name of a [`Caller`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must have 1-{max} characters, none of them a control character", max = LONGEST)]
pub struct CallerError;

impl FromStr for Caller {
    type Err = CallerError;

    fn from_str(text: &str) -> Result<Self, CallerError> {
        let fits =
            (1..=LONGEST).contains(&text.chars().count()) && !text.contains(char::is_control);
        fits.then(|| Self(text.to_owned())).ok_or(CallerError)
    }
}

impl Caller {
    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns a key scoped to this caller, as
    /// [`IdempotentRequest`](crate::pod::idempotency::IdempotentRequest) takes it. Two callers'
    /// equal Idempotency-Keys are different keys.
    #[must_use]
    pub fn own_key(&self, key: &str) -> String {
        // An Idempotency-Key contains no space, so the pair is unambiguous.
        format!("{self} {key}")
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
