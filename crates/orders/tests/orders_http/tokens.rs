//! Tokens as an issuer would make them, and as nobody should.

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use orders::auth::{AuthSettings, Scheme};
use serde_json::{Value, json};
use time::OffsetDateTime;

pub(crate) const SECRET: &str = "a secret of at least 32 bytes, and some more";

/// The key pair of RFC 8410, section 10; the private half as the bytes that PEM would wrap.
pub(crate) const PUBLIC_KEY: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
";
pub(crate) const SEED: [u8; 32] = [
    0xd4, 0xee, 0x72, 0xdb, 0xf9, 0x13, 0x58, 0x4a, 0xd5, 0xb6, 0xd8, 0xf1, 0xf7, 0x69, 0xf8, 0xad,
    0x3a, 0xfe, 0x7c, 0x28, 0xcb, 0xf1, 0xd4, 0xfb, 0xe0, 0x97, 0xa8, 0x8f, 0x44, 0x75, 0x58, 0x42,
];

/// The settings for tokens that are signed with [`SECRET`] or the private half of [`PUBLIC_KEY`].
pub(crate) fn settings(auth: Scheme) -> AuthSettings {
    let jwt_key = match auth {
        Scheme::Hs256 => Some(SECRET.to_owned().into()),
        Scheme::Eddsa => Some(PUBLIC_KEY.to_owned().into()),
        Scheme::Off => None,
    };
    let default_buyer = "local-buyer".parse().unwrap();
    AuthSettings { auth, jwt_key, jwt_issuer: None, jwt_audience: None, default_buyer }
}

/// Claims that are valid for a while.
pub(crate) fn claims(buyer: &str) -> Value {
    json!({ "sub": buyer, "exp": in_seconds(600) })
}

pub(crate) fn in_seconds(seconds: i64) -> i64 {
    OffsetDateTime::now_utc().unix_timestamp() + seconds
}

/// Other claims than these: with this one added or changed, or gone when it is null.
pub(crate) fn but(mut claims: Value, claim: &str, value: Value) -> Value {
    let all = claims.as_object_mut().unwrap();
    if value.is_null() {
        all.remove(claim)
    } else {
        all.insert(claim.to_owned(), value)
    };
    claims
}

pub(crate) fn hs256(claims: &Value) -> String {
    hmac(Algorithm::HS256, claims, SECRET)
}

pub(crate) fn hmac(algorithm: Algorithm, claims: &Value, secret: &str) -> String {
    encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

pub(crate) fn eddsa(claims: &Value) -> String {
    ed25519(claims, SEED)
}

pub(crate) fn ed25519(claims: &Value, seed: [u8; 32]) -> String {
    // PKCS #8 around the seed.
    let mut der = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    der.extend(seed);
    encode(&Header::new(Algorithm::EdDSA), claims, &EncodingKey::from_ed_der(&der)).unwrap()
}

/// The claims with the header `{"alg":"none"}` and no signature.
pub(crate) fn unsigned(claims: &Value) -> String {
    let signed = hs256(claims);
    format!("eyJhbGciOiJub25lIn0.{}.", signed.split('.').nth(1).unwrap())
}

/// A token's signature under other claims.
pub(crate) fn forged(claims: &Value, signed: &str) -> String {
    let other = hs256(claims);
    let signed: Vec<&str> = signed.split('.').collect();
    format!("{}.{}.{}", signed[0], other.split('.').nth(1).unwrap(), signed[2])
}
