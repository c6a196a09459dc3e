//! Who makes a request: the subject of a bearer token (RFC 6750) that is a JSON Web Token signed with
//! the configured key; or, where that is turned off, always the same caller.
//!
//! A handler takes a [`Caller`]. The service's state gives out its [`Auth`], by `FromRef`.

mod caller;
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
pub use refusal::Refusal;
pub use settings::{AuthSettings, Key, Scheme};
use token::{Rules, Signed, Verifier};

/// What tells a request's caller. Clones are the same.
#[derive(Debug, Clone)]
pub struct Auth(Arc<By>);

#[derive(Debug)]
enum By {
    /// A token that this key and its rules accept.
    Key(Box<Verifier>),
    /// Nothing; it is always this one.
    Nothing(Caller),
}

impl Auth {
    /// Reads the key. Where tokens are turned off, every request is `always`'s.
    ///
    /// # Errors
    /// When it is none, with the setting's name.
    pub fn new(settings: &AuthSettings, always: &Caller) -> Result<Self, String> {
        let key = settings.jwt_key.as_ref().map_or("", Key::as_str);
        let rules = Rules::new(settings.jwt_issuer.as_deref(), settings.jwt_audience.as_deref());
        let by = match settings.auth {
            Scheme::Off => By::Nothing(always.clone()),
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

    /// Whose every request is. `None` where each says so itself, by its token.
    #[must_use]
    pub fn always(&self) -> Option<&Caller> {
        match &*self.0 {
            By::Nothing(caller) => Some(caller),
            By::Key(_) => None,
        }
    }

    fn caller(&self, parts: &Parts) -> Result<Caller, Refusal> {
        let verifier = match &*self.0 {
            By::Nothing(caller) => return Ok(caller.clone()),
            By::Key(verifier) => verifier,
        };
        let token = token::of(parts)?;
        Signed::read(token)?;
        verifier.caller(token)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller
where
    Auth: FromRef<S>,
{
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        Auth::from_ref(state).caller(parts)
    }
}

/// Describes in an API how its callers say who they are, under the name that its operations use.
pub fn describe(api: &mut OpenApi, name: &str) {
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
    let components = api.components.get_or_insert_default();
    components.add_security_scheme(name, SecurityScheme::Http(bearer));
}
