//! The settings of authentication.

use std::fmt;

use clap::{Args, ValueEnum};

/// How callers authenticate.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Callers")]
pub struct AuthSettings {
    /// How callers authenticate: by the subject of a bearer JWT that is signed this way, or not at
    /// all.
    #[arg(long, env, value_name = "AUTH", value_enum)]
    pub auth: Scheme,

    /// The key that verifies tokens: for hs256 the secret, at least 32 bytes; for eddsa the public
    /// key (Ed25519) in PEM.
    #[arg(long, env, value_name = "JWT_KEY", hide_env_values = true,
          required_if_eq_any([("auth", "hs256"), ("auth", "eddsa")]))]
    pub jwt_key: Option<Key>,

    /// The required issuer of tokens (`iss`); for oidc the issuer's URL, where its keys are found.
    /// Default: any issuer that has the key.
    #[arg(long, env, value_name = "JWT_ISSUER", required_if_eq("auth", "oidc"))]
    pub jwt_issuer: Option<String>,

    /// The required audience of tokens (`aud`). Default: none; a token that names an audience is
    /// then refused.
    #[arg(long, env, value_name = "JWT_AUDIENCE", required_if_eq("auth", "oidc"))]
    pub jwt_audience: Option<String>,
}

/// A key as configured. Never shown, not even by `Debug`.
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

/// How tokens are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scheme {
    /// HMAC with SHA-256 and a secret shared by the issuer and this service.
    Hs256,
    /// Ed25519 with a key that only the issuer has.
    Eddsa,
    /// RS256, ES256 or Ed25519, with the keys that the issuer publishes (OpenID Connect Discovery).
    Oidc,
    /// No tokens: every request is made by the default caller.
    Off,
}

#[cfg(test)]
mod tests {
    use super::{super::secret::SHORTEST, *};

    #[test]
    fn the_help_names_the_shortest_secret() {
        let mut command = AuthSettings::augment_args(clap::Command::new("service").term_width(0));
        let help = command.render_long_help().to_string();
        let shortest = format!("at least {SHORTEST} bytes");
        assert!(help.contains(&shortest), "{shortest:?} is not in: {help}");
    }
}
