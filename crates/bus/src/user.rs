//! The NATS user of a process, and its credentials.

use std::{fmt, str::FromStr};

use async_nats::ServerAddr;
use nkeys::{KeyPair, KeyPairType};

/// A user of NATS.
#[derive(Debug, Clone)]
pub struct User {
    /// The name. Replies arrive under `_INBOX.<name>`, so that the server can deny them to other users.
    pub name: String,
    /// How the user authenticates.
    pub credentials: Credentials,
}

/// How a user authenticates. Its `Debug` shows no secret.
#[derive(Clone)]
pub enum Credentials {
    /// A password, which is sent to the server.
    Password(String),
    /// A private key, which never leaves the process: it signs the server's challenge, and the server
    /// knows the public key.
    Seed(Seed),
}

/// The user and password of the first URL that has both.
pub(crate) fn in_urls(servers: &[ServerAddr]) -> Option<(String, String)> {
    servers
        .iter()
        .find_map(|server| Some((server.username()?.to_owned(), server.password()?.to_owned())))
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password(_) => "Password(…)",
            Self::Seed(_) => "Seed(…)",
        })
    }
}

/// The private NKey of a user: an Ed25519 key in the text form of NATS, which begins with `SU`.
/// <https://docs.nats.io/running-a-nats-service/configuration/securing_nats/auth_intro/nkey_auth>
#[derive(Clone)]
pub struct Seed(String);

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(…)")
    }
}

/// The text is not a [`Seed`]. Does not repeat the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it does not hold the seed of a user's NKey, which begins with SU")]
pub struct SeedError;

impl FromStr for Seed {
    type Err = SeedError;

    fn from_str(text: &str) -> Result<Self, SeedError> {
        let text = text.trim();
        let pair = KeyPair::from_seed(text).map_err(|_| SeedError)?;
        if pair.key_pair_type() != KeyPairType::User {
            return Err(SeedError);
        }
        Ok(Self(text.to_owned()))
    }
}

impl Seed {
    /// A new random key.
    ///
    /// # Errors
    /// Never, unless the NKey library has a bug.
    pub fn generate() -> Result<Self, SeedError> {
        KeyPair::new_user().seed().map(Self).map_err(|_| SeedError)
    }

    /// The private key itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The public key, for the server's configuration. Begins with `U`.
    ///
    /// # Errors
    /// Never: the seed was checked when it was parsed.
    pub fn public_key(&self) -> Result<String, SeedError> {
        KeyPair::from_seed(&self.0).map(|pair| pair.public_key()).map_err(|_| SeedError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_users_seed_is_accepted_and_it_never_shows_in_a_log() {
        let seed = Seed::generate().unwrap();
        let read: Seed = format!("{}\n", seed.expose()).parse().unwrap();
        assert_eq!(read.public_key().unwrap(), seed.public_key().unwrap());
        assert!(seed.public_key().unwrap().starts_with('U'));
        let account = KeyPair::new_account().seed().unwrap();
        let public = seed.public_key().unwrap();
        for text in ["", "SU", "password", &account, &public, &seed.expose()[..57]] {
            assert_eq!(text.parse::<Seed>().unwrap_err(), SeedError, "{text}");
        }
        let user =
            User { name: "tickets".to_owned(), credentials: Credentials::Seed(seed.clone()) };
        assert!(!format!("{user:?} {seed:?}").contains("SU"));
        let credentials = Credentials::Password("secret".to_owned());
        assert!(!format!("{credentials:?}").contains("secret"));
    }
}
