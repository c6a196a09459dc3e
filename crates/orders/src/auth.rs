//! Who a request's buyer is: the subject of a bearer token (RFC 6750) that is a JSON Web Token signed
//! with the configured key; or, where that is turned off, always the same buyer.

use std::{fmt, str::FromStr, time::Duration};

use axum::{
    extract::FromRequestParts,
    http::{HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use clap::{Args, ValueEnum};
use common::pod::{page::bad_request, problem::Problem};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, errors::ErrorKind};
use serde::Deserialize;

/// How much the clock of who issues tokens may differ from this one's: as long as RFC 7519, section
/// 4.1.4, allows, "usually no more than a few minutes".
const LEEWAY: Duration = Duration::from_secs(60);
/// The shortest key for HS256, in bytes: that of its hash (RFC 7518, section 3.2).
const SHORTEST_SECRET: usize = 32;

/// How a request says who its buyer is.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Buyers")]
pub struct AuthSettings {
    /// How a request says who its buyer is: by the subject of a bearer JWT that is signed in this way;
    /// or not at all.
    #[arg(long, env, value_name = "AUTH", value_enum)]
    pub auth: Scheme,

    /// The key that tokens are checked with: for hs256 the secret, at least 32 bytes; for eddsa the
    /// public key (Ed25519) in PEM.
    #[arg(long, env, value_name = "JWT_KEY", hide_env_values = true,
          required_if_eq_any([("auth", "hs256"), ("auth", "eddsa")]))]
    pub jwt_key: Option<Key>,

    /// Who must have issued a token (its `iss`). Default: anybody who has the key.
    #[arg(long, env, value_name = "JWT_ISSUER")]
    pub jwt_issuer: Option<String>,

    /// For whom a token must be (its `aud`). Default: for nobody in particular; one that says for whom
    /// it is, is then not for this service.
    #[arg(long, env, value_name = "JWT_AUDIENCE")]
    pub jwt_audience: Option<String>,

    /// Whose every order is while AUTH is off.
    #[arg(long, env, value_name = "DEFAULT_BUYER", default_value = "local-buyer")]
    pub default_buyer: Buyer,
}

/// A key as it was given. Shown to nobody, not even in a debug output.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(String);

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
    /// Nothing is checked: every request is the default buyer's.
    Off,
}

/// A buyer's name: 1–200 characters, none of them a control character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buyer(String);

/// A text is not a [`Buyer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must have 1-200 characters, none of them a control character")]
pub struct BuyerError;

impl FromStr for Buyer {
    type Err = BuyerError;

    fn from_str(text: &str) -> Result<Self, BuyerError> {
        let fits = (1..=200).contains(&text.chars().count()) && !text.contains(char::is_control);
        fits.then(|| Self(text.to_owned())).ok_or(BuyerError)
    }
}

impl Buyer {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Buyer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What tells a request's buyer.
#[derive(Clone)]
pub enum Auth {
    /// A token that this key and these rules accept.
    Token(Box<(DecodingKey, Validation)>),
    /// Nothing; it is always this one.
    Off(Buyer),
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Never the key.
            Self::Token(token) => f.debug_tuple("Token").field(&token.1).finish(),
            Self::Off(buyer) => f.debug_tuple("Off").field(buyer).finish(),
        }
    }
}

/// What this service reads of a token. `exp`, `nbf`, `iss` and `aud` are the library's matter.
#[derive(Deserialize)]
struct Claims {
    /// Optional here alone: that it is missing, the library says in its own words, but only after this
    /// could be read.
    sub: Option<String>,
}

impl Auth {
    /// Reads the key.
    ///
    /// # Errors
    /// When it is none, with the setting's name.
    pub fn new(settings: &AuthSettings) -> Result<Self, String> {
        let key = settings.jwt_key.as_ref().map_or("", |key| key.0.as_str());
        let (key, algorithm) = match settings.auth {
            Scheme::Off => return Ok(Self::Off(settings.default_buyer.clone())),
            Scheme::Hs256 if key.len() < SHORTEST_SECRET => {
                return Err(format!(
                    "JWT_KEY has {} bytes; for hs256 it must have at least {SHORTEST_SECRET}",
                    key.len()
                ));
            }
            Scheme::Hs256 => (DecodingKey::from_secret(key.as_bytes()), Algorithm::HS256),
            Scheme::Eddsa => match DecodingKey::from_ed_pem(key.as_bytes()) {
                Ok(key) => (key, Algorithm::EdDSA),
                Err(error) => {
                    return Err(format!("JWT_KEY is not an Ed25519 public key in PEM: {error}"));
                }
            },
        };
        let mut rules = Validation::new(algorithm);
        rules.leeway = LEEWAY.as_secs();
        rules.validate_nbf = true;
        let mut required = vec!["exp", "sub"];
        if let Some(issuer) = &settings.jwt_issuer {
            rules.set_issuer(&[issuer]);
            required.push("iss");
        }
        if let Some(audience) = &settings.jwt_audience {
            rules.set_audience(&[audience]);
            required.push("aud");
        }
        rules.set_required_spec_claims(&required);
        Ok(Self::Token(Box::new((key, rules))))
    }

    fn buyer(&self, parts: &Parts) -> Result<Buyer, Refusal> {
        let (key, rules) = match self {
            Self::Off(buyer) => return Ok(buyer.clone()),
            Self::Token(token) => &**token,
        };
        let mut given = parts.headers.get_all(header::AUTHORIZATION).iter();
        let Some(value) = given.next() else {
            let detail = "Say who you are: Authorization: Bearer, and a token.";
            return Err(Refusal::unauthorized("Bearer", detail));
        };
        if given.next().is_some() {
            return Err(Refusal::from(bad_request("Authorization", "must be given once")));
        }
        let token = value.to_str().ok().and_then(|value| value.split_once(' '));
        let Some((_, token)) = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        else {
            let detail = "Authorization must be Bearer, and a token.";
            return Err(Refusal::unauthorized("Bearer", detail));
        };
        let claims = decode::<Claims>(token.trim(), key, rules).map_err(|error| {
            Refusal::invalid_token(match error.kind() {
                ErrorKind::ExpiredSignature => "The token has expired.",
                ErrorKind::ImmatureSignature => "The token is not valid yet.",
                ErrorKind::InvalidIssuer => "The token is of another issuer.",
                ErrorKind::InvalidAudience => "The token is not for this service.",
                ErrorKind::MissingRequiredClaim(_) => {
                    "The token lacks a claim: it must have exp and sub, and iss and aud where they are asked for."
                }
                _ => "The token is not one that this service accepts.",
            })
        })?;
        let buyer = claims.claims.sub.unwrap_or_default().parse();
        buyer.map_err(|error: BuyerError| {
            Refusal::invalid_token(&format!("The token's sub {error}."))
        })
    }
}

/// Why a request has no buyer, and what would be accepted instead.
#[derive(Debug)]
pub struct Refusal {
    problem: Problem,
    /// The value of WWW-Authenticate, which every 401 has (RFC 9110, section 11.6.1).
    challenge: Option<&'static str>,
}

impl Refusal {
    fn unauthorized(challenge: &'static str, detail: &str) -> Self {
        let problem = Problem::new(StatusCode::UNAUTHORIZED, detail);
        Self { problem, challenge: Some(challenge) }
    }

    /// There was a token, and another one is needed (RFC 6750, section 3.1).
    fn invalid_token(detail: &str) -> Self {
        Self::unauthorized(r#"Bearer error="invalid_token""#, detail)
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self { problem, challenge: None }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = self.problem.into_response();
        if let Some(challenge) = self.challenge {
            let challenge = HeaderValue::from_static(challenge);
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

impl FromRequestParts<crate::http::Api> for Buyer {
    type Rejection = Refusal;

    async fn from_request_parts(
        parts: &mut Parts,
        api: &crate::http::Api,
    ) -> Result<Self, Refusal> {
        api.auth.buyer(parts)
    }
}
