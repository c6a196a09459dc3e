//! An issuer's JSON Web Key Set (RFC 7517), reduced to the keys that can verify tokens.
//!
//! Each key is used with one algorithm, which follows from the key: RS256, ES256 or EdDSA
//! (Ed25519). Keys that are meant for another use, too weak, or no longer secret are ignored. So
//! are keys that share their name and algorithm with another, because a token could not say which
//! one it means.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;
use tracing::debug;

use super::{
    token::{Rules, Signed, Verifier},
    unique::Unique,
};

/// The algorithms that an issuer's tokens may be signed with.
pub(super) const ALGORITHMS: [Algorithm; 3] =
    [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];
/// The most keys in a set: an issuer has two or three, some a few dozen.
const MOST: usize = 100;
/// The size of an RSA key in bits: at least per RFC 7518, section 3.3, at most what the library
/// supports.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2_048..=4_096;
/// The length of Ed25519 keys and of P-256 coordinates, in bytes.
const CURVE_BYTES: usize = 32;

/// The current keys of an issuer.
#[derive(Debug, Default)]
pub(super) struct KeySet(Vec<IssuerKey>);

#[derive(Debug)]
struct IssuerKey {
    id: Option<String>,
    algorithm: Algorithm,
    verifier: Arc<Verifier>,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

impl KeySet {
    /// Parses a set. It may contain no usable key.
    ///
    /// # Errors
    /// If it is not a key set, or has too many keys.
    pub(super) fn read(document: &[u8], rules: &Rules) -> anyhow::Result<Self> {
        let Unique(document) = serde_json::from_slice(document)?;
        let Document { keys } = Document::deserialize(document)?;
        anyhow::ensure!(keys.len() <= MOST, "the set has {} keys, more than {MOST}", keys.len());
        let mut set = Self::default();
        for key in keys {
            let name = key.get("kid").cloned().unwrap_or_default();
            match usable(key) {
                Ok((id, algorithm, key)) => {
                    let verifier = Arc::new(Verifier::new(algorithm, key, rules));
                    set.0.push(IssuerKey { id, algorithm, verifier });
                }
                Err(why) => debug!(jwk.kid = %name, why, "ignoring a key of the token issuer"),
            }
        }
        Ok(set)
    }

    /// Returns the one key that may have signed a token. A token that names no key is accepted only
    /// if there is exactly one for its algorithm.
    pub(super) fn find(&self, signed: &Signed) -> Option<Arc<Verifier>> {
        let mut fitting = self.0.iter().filter(|key| {
            key.algorithm == signed.algorithm
                && (signed.key_id.is_none() || key.id == signed.key_id)
        });
        let found = fitting.next()?;
        fitting.next().is_none().then(|| found.verifier.clone())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the keys' names, for logging.
    pub(super) fn names(&self) -> String {
        let names = self.0.iter().map(|key| key.id.as_deref().unwrap_or("(no name)"));
        names.collect::<Vec<_>>().join(", ")
    }
}

/// Returns a key's name, its algorithm and its verifier; or why it is not used.
fn usable(key: Value) -> Result<(Option<String>, Algorithm, DecodingKey), &'static str> {
    if ["d", "k"].iter().any(|private| key.get(private).is_some()) {
        return Err("it is a private or shared key, and anyone can read it");
    }
    let key: Jwk = serde_json::from_value(key).map_err(|_| "it cannot be read")?;
    let common = &key.common;
    if common.public_key_use.as_ref().is_some_and(|of| *of != PublicKeyUse::Signature) {
        return Err("its use is not sig");
    }
    if common.key_operations.as_ref().is_some_and(|all| !all.contains(&KeyOperations::Verify)) {
        return Err("its key_ops lack verify");
    }
    let algorithm = match &key.algorithm {
        AlgorithmParameters::RSA(rsa) => {
            let modulus = decoded(&rsa.n)?;
            let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
            let first = modulus.get(zeros).map_or(0, |byte| byte.leading_zeros() as usize);
            let bits = (modulus.len() - zeros) * 8 - first;
            if !RSA_BITS.contains(&bits) {
                return Err("an RSA key must have 2048 to 4096 bits");
            }
            Algorithm::RS256
        }
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => {
            if [&ec.x, &ec.y].into_iter().any(|part| !has_curve_bytes(part)) {
                return Err("its coordinates must have 32 bytes");
            }
            Algorithm::ES256
        }
        AlgorithmParameters::OctetKeyPair(ed) if ed.curve == EllipticCurve::Ed25519 => {
            // The library reads 32 bytes, however many there are.
            if !has_curve_bytes(&ed.x) {
                return Err("it must have 32 bytes");
            }
            Algorithm::EdDSA
        }
        _ => return Err("it is for no supported algorithm"),
    };
    if common.key_algorithm.is_some_and(|named| named != KeyAlgorithm::from(algorithm)) {
        return Err("its alg is not the one supported for this kind of key");
    }
    let verifying = DecodingKey::from_jwk(&key).map_err(|_| "it cannot be read")?;
    Ok((key.common.key_id, algorithm, verifying))
}

fn decoded(text: &str) -> Result<Vec<u8>, &'static str> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| "it cannot be read")
}

fn has_curve_bytes(text: &str) -> bool {
    decoded(text).is_ok_and(|bytes| bytes.len() == CURVE_BYTES)
}
