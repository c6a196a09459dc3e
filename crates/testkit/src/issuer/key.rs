//! The keys that an issuer signs tokens with.

use std::sync::OnceLock;

use jsonwebtoken::{
    Algorithm, EncodingKey, Header, encode,
    jwk::{Jwk, KeyAlgorithm},
};
use rsa::{RsaPrivateKey, pkcs1::EncodeRsaPrivateKey, rand_core::OsRng};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::tokens::{but, seed_der};

/// A key of the issuer.
#[derive(Clone)]
pub struct Key {
    algorithm: Algorithm,
    private: EncodingKey,
    /// Its `kid`.
    pub id: String,
    /// The public half, as the issuer publishes it.
    pub jwk: Value,
}

#[allow(clippy::missing_panics_doc, reason = "a key that cannot be made is a fault of the test")]
impl Key {
    /// Returns an RSA key, the same for all tests, because generating one takes a while.
    pub fn rs256(id: &str) -> Self {
        static KEY: OnceLock<Vec<u8>> = OnceLock::new();
        let der = KEY.get_or_init(|| rsa_key(2_048));
        Self::new(id, Algorithm::RS256, EncodingKey::from_rsa_der(der))
    }

    /// Returns an RSA key that is too small to be secure.
    pub fn small_rs256(id: &str) -> Self {
        Self::new(id, Algorithm::RS256, EncodingKey::from_rsa_der(&rsa_key(1_024)))
    }

    /// Returns a new P-256 key.
    pub fn es256(id: &str) -> Self {
        // PKCS #8 around a random number.
        let mut der =
            vec![0x30, 0x41, 2, 1, 0, 0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
        der.extend([
            6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7, 4, 0x27, 0x30, 0x25, 2, 1, 1, 4, 0x20,
        ]);
        der.extend(chance());
        Self::new(id, Algorithm::ES256, EncodingKey::from_ec_der(&der))
    }

    /// Returns a new Ed25519 key.
    pub fn eddsa(id: &str) -> Self {
        Self::new(id, Algorithm::EdDSA, EncodingKey::from_ed_der(&seed_der(chance())))
    }

    fn new(id: &str, algorithm: Algorithm, private: EncodingKey) -> Self {
        let mut jwk = Jwk::from_encoding_key(&private, algorithm).unwrap();
        jwk.common.key_id = Some(id.to_owned());
        jwk.common.key_algorithm = Some(KeyAlgorithm::from(algorithm));
        let jwk = but(serde_json::to_value(jwk).unwrap(), "use", json!("sig"));
        Self { algorithm, private, id: id.to_owned(), jwk }
    }

    /// Returns the same key, published with this member added or changed, or removed if it is null.
    pub fn shown(self, member: &str, value: Value) -> Self {
        Self { jwk: but(self.jwk, member, value), ..self }
    }

    /// Returns a token with these claims that names this key.
    pub fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.id.clone()), ..Header::new(self.algorithm) };
        encode(&header, claims, &self.private).unwrap()
    }

    /// Returns the same token without the key's name.
    pub fn sign_unnamed(&self, claims: &Value) -> String {
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
