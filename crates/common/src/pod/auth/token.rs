//! A bearer token (RFC 6750) that is a signed JSON Web Token: taken from its request, and checked.
//!
//! Refused besides what is not signed, in time and for this service: what asks for an extension (`crit`),
//! what can be read in two ways (a name given twice, an `iss` that is a list), and tokens of another
//! kind (`typ`), such as a proof of possession or a logout (RFC 8725).

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

/// How much the clock of who issues tokens may differ from this one's: as long as RFC 7519, section
/// 4.1.4, allows, "usually no more than a few minutes".
const LEEWAY: Duration = Duration::from_secs(60);
/// The longest token, in bytes: as long as most proxies let a header be.
const LONGEST: usize = 8 * 1024;
/// What tokens say that they are: nothing, a JWT, or an access token (RFC 9068).
const TYPES: [&str; 4] = ["jwt", "at+jwt", "application/jwt", "application/at+jwt"];

pub(super) const UNACCEPTED: &str = "The token is not one that this service accepts.";

/// The one token of a request.
pub(super) fn of(parts: &Parts) -> Result<&str, Refusal> {
    let mut given = parts.headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = given.next() else {
        let detail = "Say who you are: Authorization: Bearer, and a token.";
        return Err(Refusal::no_token(detail));
    };
    if given.next().is_some() {
        return Err(bad_request("Authorization", "must be given once").into());
    }
    let token = value.to_str().ok().and_then(|value| value.split_once(' '));
    match token {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => Err(Refusal::no_token("Authorization must be Bearer, and a token.")),
    }
}

/// What a token says of how it is signed. Nothing of it is proven yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Signed {
    pub(super) algorithm: Algorithm,
    /// Which of the issuer's keys.
    pub(super) key_id: Option<String>,
}

impl Signed {
    /// Reads a token's header.
    ///
    /// # Errors
    /// 401 when there is none that this service accepts.
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

/// What must be true of every token, whichever its key.
#[derive(Debug, Clone)]
pub(super) struct Rules(Validation);

impl Rules {
    /// In time, of this issuer and for this audience. Without an audience, a token that has one is
    /// for somebody else.
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

/// A key, the only algorithm that it is used with, and what else must be true of a token.
#[derive(Clone)]
pub(super) struct Verifier {
    key: DecodingKey,
    rules: Validation,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the key.
        self.rules.fmt(f)
    }
}

/// What this service reads of a token. `exp` and `nbf` are the library's matter.
#[derive(Deserialize)]
struct Claims {
    /// Optional here alone: that it is missing, the library says in its own words, but only after this
    /// could be read.
    sub: Option<String>,
    /// One issuer: of a list, the library would take any.
    #[serde(rename = "iss")]
    _issuer: Option<String>,
    #[serde(rename = "aud")]
    _audience: Option<Audience>,
    iat: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(#[allow(dead_code, reason = "it must be a text, whichever")] String),
    Some(#[allow(dead_code, reason = "likewise")] Vec<String>),
}

impl Verifier {
    pub(super) fn new(algorithm: Algorithm, key: DecodingKey, rules: &Rules) -> Self {
        Self { key, rules: Validation { algorithms: vec![algorithm], ..rules.0.clone() } }
    }

    /// Whose token it is.
    ///
    /// # Errors
    /// 401 when it is nobody's, or not for here and now.
    pub(super) fn caller(&self, token: &str) -> Result<Caller, Refusal> {
        let decoded = decode::<Unique>(token, &self.key, &self.rules).map_err(|error| {
            Refusal::invalid_token(match error.kind() {
                ErrorKind::ExpiredSignature => "The token has expired.",
                ErrorKind::ImmatureSignature => "The token is not valid yet.",
                ErrorKind::InvalidIssuer => "The token is of another issuer.",
                ErrorKind::InvalidAudience => "The token is not for this service.",
                ErrorKind::MissingRequiredClaim(_) => {
                    "The token lacks a claim: it must have exp and sub, and iss and aud where they are asked for."
                }
                _ => UNACCEPTED,
            })
        })?;
        let claims = Claims::deserialize(decoded.claims.0);
        let claims = claims.map_err(|_| Refusal::invalid_token(UNACCEPTED))?;
        // A whole number of seconds as well as a broken one; far from where f64 is not exact.
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
