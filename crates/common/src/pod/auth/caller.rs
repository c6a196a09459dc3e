//! Who makes a request: a buyer or a seller, by name.

use std::{fmt, str::FromStr};

/// Who makes a request, by the name that their token gives them: 1–200 characters, none of them a
/// control character. Names are compared to the character: `Anna` is not `anna`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller(String);

/// A text is not the name of a [`Caller`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must have 1-200 characters, none of them a control character")]
pub struct CallerError;

impl FromStr for Caller {
    type Err = CallerError;

    fn from_str(text: &str) -> Result<Self, CallerError> {
        let fits = (1..=200).contains(&text.chars().count()) && !text.contains(char::is_control);
        fits.then(|| Self(text.to_owned())).ok_or(CallerError)
    }
}

impl Caller {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A key that is this caller's alone, as [`IdempotentRequest`](crate::pod::idempotency::IdempotentRequest) takes it: the
    /// same Idempotency-Key of another caller is another key.
    #[must_use]
    pub fn own_key(&self, key: &str) -> String {
        // An Idempotency-Key holds no blank, so the pair can be read in one way only.
        format!("{self} {key}")
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
