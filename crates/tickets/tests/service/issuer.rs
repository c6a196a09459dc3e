//! A little issuer of tokens, on this machine and as good or bad as a test wants it. The tests of orders
//! include this file as well.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, OnceLock},
};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use common::pod::{
    auth::{Auth, AuthSettings, Scheme},
    health::Health,
    shutdown::Shutdown,
};
use jsonwebtoken::{
    Algorithm, EncodingKey, Header, encode,
    jwk::{Jwk, KeyAlgorithm},
};
use rsa::{RsaPrivateKey, pkcs1::EncodeRsaPrivateKey, rand_core::OsRng};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};
use uuid::Uuid;

use crate::service::tokens::{but, claims, seed_der};

/// For whom the tokens are.
pub(crate) const AUDIENCE: &str = "ticketing";

/// A key of the issuer.
#[derive(Clone)]
pub(crate) struct Key {
    algorithm: Algorithm,
    private: EncodingKey,
    pub(crate) id: String,
    /// The public half, as the issuer shows it.
    pub(crate) jwk: Value,
}

impl Key {
    /// One key for all tests: it takes a while to make.
    pub(crate) fn rs256(id: &str) -> Self {
        static KEY: OnceLock<Vec<u8>> = OnceLock::new();
        let der = KEY.get_or_init(|| rsa_key(2_048));
        Self::new(id, Algorithm::RS256, EncodingKey::from_rsa_der(der))
    }

    /// As small as nobody should have them any more.
    pub(crate) fn small_rs256(id: &str) -> Self {
        Self::new(id, Algorithm::RS256, EncodingKey::from_rsa_der(&rsa_key(1_024)))
    }

    pub(crate) fn es256(id: &str) -> Self {
        // PKCS #8 around a random number.
        let mut der =
            vec![0x30, 0x41, 2, 1, 0, 0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
        der.extend([
            6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7, 4, 0x27, 0x30, 0x25, 2, 1, 1, 4, 0x20,
        ]);
        der.extend(chance());
        Self::new(id, Algorithm::ES256, EncodingKey::from_ec_der(&der))
    }

    pub(crate) fn eddsa(id: &str) -> Self {
        Self::new(id, Algorithm::EdDSA, EncodingKey::from_ed_der(&seed_der(chance())))
    }

    fn new(id: &str, algorithm: Algorithm, private: EncodingKey) -> Self {
        let mut jwk = Jwk::from_encoding_key(&private, algorithm).unwrap();
        jwk.common.key_id = Some(id.to_owned());
        jwk.common.key_algorithm = Some(KeyAlgorithm::from(algorithm));
        let jwk = but(serde_json::to_value(jwk).unwrap(), "use", json!("sig"));
        Self { algorithm, private, id: id.to_owned(), jwk }
    }

    /// The same key, shown with this member added or changed, or without it where it is null.
    pub(crate) fn shown(self, member: &str, value: Value) -> Self {
        Self { jwk: but(self.jwk, member, value), ..self }
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.id.clone()), ..Header::new(self.algorithm) };
        encode(&header, claims, &self.private).unwrap()
    }

    /// A token that does not say by which key it is signed.
    pub(crate) fn sign_unnamed(&self, claims: &Value) -> String {
        encode(&Header::new(self.algorithm), claims, &self.private).unwrap()
    }
}

fn rsa_key(bits: usize) -> Vec<u8> {
    let key = RsaPrivateKey::new(&mut OsRng, bits).unwrap();
    key.to_pkcs1_der().unwrap().as_bytes().to_vec()
}

fn chance() -> [u8; 32] {
    let halves = [Uuid::new_v4().into_bytes(), Uuid::new_v4().into_bytes()];
    halves.concat().try_into().unwrap()
}

/// How the issuer answers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Mood {
    Well,
    /// With 500.
    Failing,
    /// Never.
    Silent,
    /// With a set of keys without end.
    Endless,
    /// That its keys are elsewhere.
    Redirecting,
    /// With the configuration of another.
    Another,
    /// With keys at an address where nobody may ask.
    KeysElsewhere(&'static str),
    /// With exactly this for its keys.
    Text(String),
}

pub(crate) struct Issuer {
    pub(crate) url: String,
    shared: Arc<Mutex<Shared>>,
    server: JoinHandle<()>,
}

struct Shared {
    keys: Vec<Value>,
    mood: Mood,
    /// How often it was asked for its configuration, and for its keys.
    asked: (usize, usize),
}

impl Issuer {
    pub(crate) async fn start(keys: &[&Key]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, keys)
    }

    /// Where it will be, at some time.
    pub(crate) fn on(listener: TcpListener, keys: &[&Key]) -> Self {
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

    /// From now on it has these keys.
    pub(crate) fn has(&self, keys: &[&Key]) {
        self.shared.lock().unwrap().keys = keys.iter().map(|key| key.jwk.clone()).collect();
    }

    pub(crate) fn is(&self, mood: Mood) {
        self.shared.lock().unwrap().mood = mood;
    }

    pub(crate) fn asked(&self) -> (usize, usize) {
        self.shared.lock().unwrap().asked
    }

    /// Claims that are right for a while.
    pub(crate) fn claims(&self, name: &str) -> Value {
        issued_by(&self.url, name)
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

pub(crate) fn settings(url: &str) -> AuthSettings {
    AuthSettings {
        auth: Scheme::Oidc,
        jwt_key: None,
        jwt_issuer: Some(url.to_owned()),
        jwt_audience: Some(AUDIENCE.to_owned()),
    }
}

pub(crate) fn issued_by(url: &str, name: &str) -> Value {
    but(but(claims(name), "iss", json!(url)), "aud", json!([AUDIENCE, "account"]))
}

/// Keeps the issuer's keys as a service does. Returns whether it would be ready.
pub(crate) fn keep(auth: &Auth) -> Health {
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

/// Where nobody should be led to.
async fn others(State((_, shared)): State<Parts>) -> Response {
    let keys = shared.lock().unwrap().keys.clone();
    Json(json!({ "keys": keys })).into_response()
}
