//! The name of a process, for NATS and for the other members of its queue group.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The name of one running process, such as its pod's name. Two processes must not share one: see
/// [`Lease`](crate::Lease).
///
/// 1–200 characters of `A–Z a–z 0–9 - _ .`, without a dot at either end or two in a row. Kubernetes pod names fit,
/// and every id fits into a NATS subject and a bucket key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct ClientId(String);

impl ClientId {
    /// The longest id, in characters.
    pub const MAX_LENGTH: usize = 200;

    /// The host name and process id, for a process that has no better name.
    #[must_use]
    pub fn of_this_process() -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let host: String = host
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .take(150)
            .collect();
        Self(format!("{host}-{}", std::process::id()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text is not a [`ClientId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a client id: 1-{max} characters of A-Z a-z 0-9 - _ and single dots inside",
    max = ClientId::MAX_LENGTH
)]
pub struct ClientIdError(String);

impl FromStr for ClientId {
    type Err = ClientIdError;

    fn from_str(text: &str) -> Result<Self, ClientIdError> {
        let fits = text.len() <= Self::MAX_LENGTH
            && text.split('.').all(|token| {
                !token.is_empty()
                    && token.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            });
        if fits { Ok(Self(text.to_owned())) } else { Err(ClientIdError(text.to_owned())) }
    }
}

impl TryFrom<String> for ClientId {
    type Error = ClientIdError;

    fn try_from(text: String) -> Result<Self, ClientIdError> {
        text.parse()
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pod_names_are_valid_ids_and_names_that_nats_would_misread_are_not() {
        for id in ["orders-7d9c5b6f4-x2x8z", "orders-0", "a.b", "A_1"] {
            assert_eq!(id.parse::<ClientId>().unwrap().as_str(), id);
        }
        for not in ["", "a b", "a:b", "a*", ">", ".a", "a.", "a..b", "ä", &"x".repeat(201)] {
            assert!(not.parse::<ClientId>().is_err(), "{not:?}");
        }
        assert!(ClientId::of_this_process().as_str().parse::<ClientId>().is_ok());
    }
}
