//! How a service is told who may call it.

use std::fmt;

use clap::{Args, ValueEnum};

/// How a request says who its caller is.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Callers")]
pub struct AuthSettings {
    /// How a request says who makes it: by the subject of a bearer JWT that is signed in this way; or
    /// not at all.
    #[arg(long, env, value_name = "AUTH", value_enum)]
    pub auth: Scheme,

    /// The key that tokens are checked with: for hs256 the secret, at least 32 bytes; for eddsa the
    /// public key (Ed25519) in PEM.
    #[arg(long, env, value_name = "JWT_KEY", hide_env_values = true,
          required_if_eq_any([("auth", "hs256"), ("auth", "eddsa")]))]
    pub jwt_key: Option<Key>,

    /// Who must have issued a token (its `iss`); for oidc the issuer's URL, by which its keys are found.
    /// Default: anybody who has the key.
    #[arg(long, env, value_name = "JWT_ISSUER", required_if_eq("auth", "oidc"))]
    pub jwt_issuer: Option<String>,

    /// For whom a token must be (its `aud`). Default: for nobody in particular; one that says for whom
    /// it is, is then not for this service.
    #[arg(long, env, value_name = "JWT_AUDIENCE", required_if_eq("auth", "oidc"))]
    pub jwt_audience: Option<String>,
}

/// A key as it was given. Shown to nobody, not even in a debug output.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Key {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// What a token is signed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scheme {
    /// HMAC with SHA-256, by a secret that the issuer shares with this service.
    Hs256,
    /// Ed25519, by a key that the issuer alone has.
    Eddsa,
    /// RS256, ES256 or Ed25519, by the keys that the issuer publishes (OpenID Connect Discovery).
    Oidc,
    /// Nothing is checked: every request is the default caller's.
    Off,
}
