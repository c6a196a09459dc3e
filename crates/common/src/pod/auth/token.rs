//! Extracts and verifies a request's bearer token (RFC 6750), a signed JSON Web Token.
//!
//! Besides tokens with a wrong signature, time or audience, it refuses those that require an
//! extension (`crit`), are ambiguous (a duplicate name, an `iss` that is a list), or are of another
//! kind (`typ`), such as a proof of possession or a logout token (RFC 8725).

use std::time::Duration;

use axum::http::{header, request::Parts};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, DecodingKey, Validation, decode, errors::ErrorKind, get_current_timestamp,
};
use serde::Deserialize;
use serde_json::Value;

use super::{
    caller::{Caller, CallerError},
    refusal::Refusal,
    unique::Unique,
};
use crate::pod::page::bad_request;

/// The tolerated difference between the issuer's clock and this one: as RFC 7519, section 4.1.4,
/// allows, "usually no more than a few minutes".
const LEEWAY: Duration = Duration::from_secs(60);
/// The longest token, in bytes: the limit of most proxies on a header.
const LONGEST: usize = 8 * 1024;
/// The accepted `typ` values; `typ` may also be missing: a JWT, or an access token (RFC 9068).
const TYPES: [&str; 4] = ["jwt", "at+jwt", "application/jwt", "application/at+jwt"];

pub(super) const UNACCEPTED: &str = "This service does not accept the token.";

/// Returns the single bearer token of a request.
pub(super) fn of(parts: &Parts) -> Result<&str, Refusal> {
    let mut given = parts.headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = given.next() else {
        let detail = "Send a token: Authorization: Bearer, followed by the token.";
        return Err(Refusal::no_token(detail));
    };
    if given.next().is_some() {
        return Err(bad_request("Authorization", "must be given once").into());
    }
    let token = value.to_str().ok().and_then(|value| value.split_once(' '));
    match token {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => Err(Refusal::no_token("Authorization must be Bearer, followed by a token.")),
    }
}

/// A token's header, not verified yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Signed {
    pub(super) algorithm: Algorithm,
    /// The id of the issuer's key.
    pub(super) key_id: Option<String>,
}

impl Signed {
    /// Reads a token's header.
    ///
    /// # Errors
    /// 401 if this service does not accept it.
    pub(super) fn read(token: &str) -> Result<Self, Refusal> {
        if token.len() > LONGEST {
            let detail = format!("The token is longer than {} KiB.", LONGEST / 1024);
            return Err(Refusal::invalid_token(&detail));
        }
        let unaccepted = || Refusal::invalid_token(UNACCEPTED);
        let header = token.split('.').next().and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
        let header = header.and_then(|bytes| serde_json::from_slice::<Unique>(&bytes).ok());
        let Some(Unique(Value::Object(header))) = header else { return Err(unaccepted()) };
        if header.contains_key("crit") {
            let detail = "The token's header has crit; this service supports no extension.";
            return Err(Refusal::invalid_token(detail));
        }
        if header.get("b64").is_some_and(|b64| *b64 != Value::Bool(true)) {
            let detail = "The token's header has b64; its claims must be in base64.";
            return Err(Refusal::invalid_token(detail));
        }
        let known = |kind: &Value| {
            kind.as_str().is_some_and(|kind| TYPES.contains(&&*kind.to_ascii_lowercase()))
        };
        if !header.get("typ").is_none_or(known) {
            let detail = "The token's typ must be JWT or at+jwt, or missing.";
            return Err(Refusal::invalid_token(detail));
        }
        let algorithm = header.get("alg").and_then(Value::as_str).and_then(|alg| alg.parse().ok());
        let key_id = match header.get("kid") {
            None => None,
            Some(Value::String(id)) => Some(id.clone()),
            Some(_) => return Err(unaccepted()),
        };
        Ok(Self { algorithm: algorithm.ok_or_else(unaccepted)?, key_id })
    }
}

/// The rules for every token, whatever its key.
#[derive(Debug, Clone)]
pub(super) struct Rules(Validation);

impl Rules {
    /// A token must be valid now, and from this issuer and for this audience. Without a configured
    /// audience, a token that names one is meant for another service.
    pub(super) fn new(issuer: Option<&str>, audience: Option<&str>) -> Self {
        let leeway = LEEWAY.as_secs();
        let mut rules = Validation { leeway, validate_nbf: true, ..Validation::default() };
        let mut required = vec!["exp", "sub"];
        if let Some(issuer) = issuer {
            rules.set_issuer(&[issuer]);
            required.push("iss");
        }
        if let Some(audience) = audience {
            rules.set_audience(&[audience]);
            required.push("aud");
        }
        rules.set_required_spec_claims(&required);
        Self(rules)
    }
}

/// A key, its only algorithm, and the rules for its tokens.
#[derive(Clone)]
pub(super) struct Verifier {
    key: DecodingKey,
    rules: Validation,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Omits the key.
        self.rules.fmt(f)
    }
}

/// The claims that this service reads. The library checks `exp` and `nbf`.
#[derive(Deserialize)]
struct Claims {
    /// Optional only here: the library reports a missing `sub` itself, but only after these claims
    /// were parsed.
    sub: Option<String>,
    /// A single issuer: the library would accept any entry of a list.
    #[serde(rename = "iss")]
    _issuer: Option<String>,
    #[serde(rename = "aud")]
    _audience: Option<Audience>,
    iat: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(#[allow(dead_code, reason = "its value does not matter, its type does")] String),
    Some(#[allow(dead_code, reason = "likewise")] Vec<String>),
}

impl Verifier {
    pub(super) fn new(algorithm: Algorithm, key: DecodingKey, rules: &Rules) -> Self {
        Self { key, rules: Validation { algorithms: vec![algorithm], ..rules.0.clone() } }
    }

    /// Verifies a token and returns its caller.
    ///
    /// # Errors
    /// 401 if it is not valid for this service now, or has no caller.
    pub(super) fn caller(&self, token: &str) -> Result<Caller, Refusal> {
        let decoded = decode::<Unique>(token, &self.key, &self.rules).map_err(|error| {
            Refusal::invalid_token(match error.kind() {
                ErrorKind::ExpiredSignature => "The token has expired.",
                ErrorKind::ImmatureSignature => "The token is not valid yet.",
                ErrorKind::InvalidIssuer => "The token is from another issuer.",
                ErrorKind::InvalidAudience => "The token is not for this service.",
                ErrorKind::MissingRequiredClaim(_) => {
                    "The token lacks a claim: it must have exp and sub, and iss and aud where they are required."
                }
                _ => UNACCEPTED,
            })
        })?;
        let claims = Claims::deserialize(decoded.claims.0);
        let claims = claims.map_err(|_| Refusal::invalid_token(UNACCEPTED))?;
        // Accepts whole and fractional seconds, which f64 represents exactly enough.
        #[allow(clippy::cast_precision_loss, reason = "seconds since 1970")]
        let latest = (get_current_timestamp() + LEEWAY.as_secs()) as f64;
        if claims.iat.is_some_and(|issued| issued > latest) {
            return Err(Refusal::invalid_token("The token is not valid yet."));
        }
        let caller = claims.sub.unwrap_or_default().parse();
        caller.map_err(|error: CallerError| {
            Refusal::invalid_token(&format!("The token's sub {error}."))
        })
    }
}
