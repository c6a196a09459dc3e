//! An issuer of tokens on this machine, which answers as well or as badly as a test wants.

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
    /// As it should.
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
    /// With this address for its keys, which a service must not ask.
    KeysElsewhere(&'static str),
    /// With this text for its keys.
    Text(String),
}

/// An issuer that runs. It ends when dropped.
#[derive(Debug)]
pub struct Issuer {
    /// Its name in tokens, and where it is.
    pub url: String,
    shared: Arc<Mutex<Shared>>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    keys: Vec<Value>,
    mood: Mood,
    /// How often it was asked for its configuration, and for its keys.
    asked: (usize, usize),
}

#[allow(
    clippy::missing_panics_doc,
    reason = "an issuer that does not start is a fault of the test"
)]
impl Issuer {
    /// One that publishes these keys.
    pub async fn start(keys: &[&Key]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, keys)
    }

    /// The same on a listener: one that comes back has the address that it had.
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

    /// Publishes these keys from now on, and no others.
    pub fn has(&self, keys: &[&Key]) {
        self.shared.lock().unwrap().keys = keys.iter().map(|key| key.jwk.clone()).collect();
    }

    /// Answers like this from now on.
    pub fn is(&self, mood: Mood) {
        self.shared.lock().unwrap().mood = mood;
    }

    /// How often it was asked for its configuration, and for its keys.
    #[must_use]
    pub fn asked(&self) -> (usize, usize) {
        self.shared.lock().unwrap().asked
    }

    /// Claims of this person that are right for a while.
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

/// Settings of a service that accepts the tokens of the issuer at this URL.
#[must_use]
pub fn settings(url: &str) -> AuthSettings {
    AuthSettings {
        auth: Scheme::Oidc,
        jwt_key: None,
        jwt_issuer: Some(url.to_owned()),
        jwt_audience: Some(AUDIENCE.to_owned()),
    }
}

/// Claims of this person, by the issuer at this URL.
#[must_use]
pub fn issued_by(url: &str, name: &str) -> Value {
    but(but(claims(name), "iss", json!(url)), "aud", json!([AUDIENCE, "account"]))
}

/// Keeps the issuer's keys up to date as a service does. Returns whether the service would be ready.
#[must_use]
pub fn keep(auth: &Auth) -> Health {
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

/// Where no redirect should lead anybody.
async fn others(State((_, shared)): State<Parts>) -> Response {
    let keys = shared.lock().unwrap().keys.clone();
    Json(json!({ "keys": keys })).into_response()
}
