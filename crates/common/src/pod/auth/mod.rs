//! Authenticates requests: the caller is the subject of a bearer token (RFC 6750), a JSON Web Token
//! signed with the configured key or with one of the configured issuer's keys. If authentication is
//! off, it is always the same caller.
//!
//! A handler takes a [`Caller`]. The service's state provides its [`Auth`] through `FromRef`.

mod caller;
mod discovery;
mod issuer;
mod keys;
mod refusal;
mod secret;
mod settings;
mod token;
mod unique;

use std::sync::Arc;

use axum::{
    extract::{FromRef, FromRequestParts},
    http::request::Parts,
};
use jsonwebtoken::{Algorithm, DecodingKey};
use utoipa::openapi::{
    OpenApi,
    security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};

pub use caller::{Caller, CallerError};
use issuer::Issuer;
pub use refusal::Refusal;
pub use settings::{AuthSettings, Key, Scheme};
use token::{Rules, Signed, Verifier};

use super::health::Health;
use bus::Shutdown;

/// Determines a request's caller. Clones share their state.
#[derive(Debug, Clone)]
pub struct Auth(Arc<By>);

#[derive(Debug)]
enum By {
    /// By a token that this key and its rules accept.
    Key(Box<Verifier>),
    /// By a token that one of this issuer's keys accepts.
    Issuer(Arc<Issuer>),
    /// Without a token: the caller is always this one.
    Fixed(Caller),
}

impl Auth {
    /// Reads the key, or prepares the issuer. If authentication is off, every request is made by
    /// `always`.
    ///
    /// # Errors
    /// If a setting is invalid; the message names it.
    pub fn new(settings: &AuthSettings, always: &Caller) -> Result<Self, String> {
        let key = settings.jwt_key.as_ref().map_or("", Key::as_str);
        let rules = Rules::new(settings.jwt_issuer.as_deref(), settings.jwt_audience.as_deref());
        let by = match settings.auth {
            Scheme::Oidc => {
                if settings.jwt_audience.is_none() {
                    return Err(
                        "JWT_AUDIENCE must name the audience of the issuer's tokens".to_owned()
                    );
                }
                let url = settings.jwt_issuer.as_deref().unwrap_or_default();
                By::Issuer(Issuer::new(url, rules)?.into())
            }
            Scheme::Off => By::Fixed(always.clone()),
            Scheme::Hs256 => {
                secret::check(key)?;
                let key = DecodingKey::from_secret(key.as_bytes());
                By::Key(Verifier::new(Algorithm::HS256, key, &rules).into())
            }
            Scheme::Eddsa => {
                let key = DecodingKey::from_ed_pem(key.as_bytes()).map_err(|error| {
                    format!("JWT_KEY is not an Ed25519 public key in PEM: {error}")
                })?;
                By::Key(Verifier::new(Algorithm::EdDSA, key, &rules).into())
            }
        };
        Ok(Self(Arc::new(by)))
    }

    /// Returns the caller of every request; `None` if requests need a token.
    #[must_use]
    pub fn fixed_caller(&self) -> Option<&Caller> {
        match &*self.0 {
            By::Fixed(caller) => Some(caller),
            By::Key(_) | By::Issuer(_) => None,
        }
    }

    /// Spawns the task that refreshes the issuer's keys, if there is an issuer. The service is
    /// ready once it has them.
    pub fn spawn(&self, health: &Health, shutdown: &Shutdown) {
        let By::Issuer(issuer) = &*self.0 else { return };
        health.not_ready(issuer::GATE, "the keys of the token issuer have not been fetched yet");
        let keys = issuer.clone().run(health.clone(), shutdown.clone());
        shutdown.spawn("keys of the issuer", keys);
    }

    async fn caller(&self, parts: &Parts) -> Result<Caller, Refusal> {
        match &*self.0 {
            By::Fixed(caller) => Ok(caller.clone()),
            By::Key(verifier) => {
                let token = token::of(parts)?;
                Signed::read(token)?;
                verifier.caller(token)
            }
            By::Issuer(issuer) => {
                let token = token::of(parts)?;
                let signed = Signed::read(token)?;
                if !keys::ALGORITHMS.contains(&signed.algorithm) {
                    return Err(Refusal::invalid_token(token::UNACCEPTED));
                }
                issuer.verifier(&signed).await?.caller(token)
            }
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller
where
    Auth: FromRef<S>,
{
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        Auth::from_ref(state).caller(parts).await
    }
}

/// Adds the security scheme to an API's description, under the name that its operations use.
pub fn describe(api: &mut OpenApi, name: &str) {
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
    let components = api.components.get_or_insert_default();
    components.add_security_scheme(name, SecurityScheme::Http(bearer));
}
