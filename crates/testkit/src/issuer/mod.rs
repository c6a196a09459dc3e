//! A token issuer on this machine, which behaves as well or as badly as a test wants.

mod key;

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use common::{
    bus::Shutdown,
    pod::{
        auth::{Auth, AuthSettings, Scheme},
        health::Health,
    },
};
pub use key::Key;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::tokens::{but, claims};

/// The audience of its tokens.
pub const AUDIENCE: &str = "ticketing";

/// How the issuer answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Mood {
    /// Correctly.
    Well,
    /// With 500.
    Failing,
    /// Not at all.
    Silent,
    /// With a set of keys that never ends.
    Endless,
    /// With a redirect to other keys.
    Redirecting,
    /// With the configuration of another issuer.
    Another,
    /// With this URL for its keys, which a service must not fetch.
    KeysElsewhere(&'static str),
    /// With this text for its keys.
    Text(String),
}

/// A running issuer. Dropping it ends it.
#[derive(Debug)]
pub struct Issuer {
    /// Its `iss` in tokens, and its URL.
    pub url: String,
    shared: Arc<Mutex<Shared>>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    keys: Vec<Value>,
    mood: Mood,
    /// How often its configuration and its keys were fetched.
    asked: (usize, usize),
}

#[allow(
    clippy::missing_panics_doc,
    reason = "an issuer that does not start is a fault of the test"
)]
impl Issuer {
    /// Starts an issuer that publishes these keys.
    pub async fn start(keys: &[&Key]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, keys)
    }

    /// The same on a given listener, so that an issuer can come back at its address.
    pub fn on(listener: TcpListener, keys: &[&Key]) -> Self {
        let url = format!("http://{}/realm", listener.local_addr().unwrap());
        let keys = keys.iter().map(|key| key.jwk.clone()).collect();
        let shared = Arc::new(Mutex::new(Shared { keys, mood: Mood::Well, asked: (0, 0) }));
        let router = Router::new()
            .route("/realm/.well-known/openid-configuration", get(configuration))
            .route("/realm/keys", get(keys_now))
            .route("/realm/others", get(others))
            .with_state((url.clone(), shared.clone()));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, shared, server }
    }

    /// Publishes only these keys from now on.
    pub fn has(&self, keys: &[&Key]) {
        self.shared.lock().unwrap().keys = keys.iter().map(|key| key.jwk.clone()).collect();
    }

    /// Changes how it answers from now on.
    pub fn is(&self, mood: Mood) {
        self.shared.lock().unwrap().mood = mood;
    }

    /// Returns how often its configuration and its keys were fetched.
    #[must_use]
    pub fn asked(&self) -> (usize, usize) {
        self.shared.lock().unwrap().asked
    }

    /// Returns claims for this name that are valid for a while.
    #[must_use]
    pub fn claims(&self, name: &str) -> Value {
        issued_by(&self.url, name)
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Returns the settings of a service that accepts the tokens of the issuer at this URL.
#[must_use]
pub fn settings(url: &str) -> AuthSettings {
    AuthSettings {
        auth: Scheme::Oidc,
        jwt_key: None,
        jwt_issuer: Some(url.to_owned()),
        jwt_audience: Some(AUDIENCE.to_owned()),
    }
}

/// Returns claims for this name, issued by the issuer at this URL.
#[must_use]
pub fn issued_by(url: &str, name: &str) -> Value {
    but(but(claims(name), "iss", json!(url)), "aud", json!([AUDIENCE, "account"]))
}

/// Refreshes the issuer's keys as a service does. Returns the readiness.
#[must_use]
pub fn spawn_refresh(auth: &Auth) -> Health {
    let health = Health::default();
    let (shutdown, _) = Shutdown::new();
    auth.spawn(&health, &shutdown);
    health
}

type Parts = (String, Arc<Mutex<Shared>>);

async fn configuration(State((url, shared)): State<Parts>) -> Response {
    let mood = {
        let mut shared = shared.lock().unwrap();
        shared.asked.0 += 1;
        shared.mood.clone()
    };
    let issuer = if mood == Mood::Another { format!("{url}/") } else { url.clone() };
    let keys = match mood {
        Mood::Failing => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Mood::Silent => std::future::pending().await,
        Mood::KeysElsewhere(keys) => keys.to_owned(),
        _ => format!("{url}/keys"),
    };
    Json(json!({ "issuer": issuer, "jwks_uri": keys, "response_types_supported": ["code"] }))
        .into_response()
}

async fn keys_now(State((url, shared)): State<Parts>) -> Response {
    let (mood, keys) = {
        let mut shared = shared.lock().unwrap();
        shared.asked.1 += 1;
        (shared.mood.clone(), shared.keys.clone())
    };
    let plain: [(HeaderName, String); 1] = [(header::CACHE_CONTROL, "max-age=3600".to_owned())];
    match mood {
        Mood::Failing => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Mood::Redirecting => {
            (StatusCode::FOUND, [(header::LOCATION, format!("{url}/others"))]).into_response()
        }
        Mood::Endless => {
            let bytes = futures::stream::repeat(Ok::<_, Infallible>(vec![b' '; 16 * 1024]));
            axum::body::Body::from_stream(bytes).into_response()
        }
        Mood::Text(text) => text.into_response(),
        _ => (plain, Json(json!({ "keys": keys }))).into_response(),
    }
}

/// The target of the redirect, which must not be followed.
async fn others(State((_, shared)): State<Parts>) -> Response {
    let keys = shared.lock().unwrap().keys.clone();
    Json(json!({ "keys": keys })).into_response()
}
