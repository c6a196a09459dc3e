//! Valid and invalid tokens.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use common::pod::auth::{AuthSettings, Scheme};
use jsonwebtoken::{Algorithm, EncodingKey, Header, crypto, encode};
use serde_json::{Value, json};
use time::OffsetDateTime;

/// The secret of HS256.
pub const SECRET: &str = "a secret of at least 32 bytes, and some more";

/// The key pair of RFC 8410, section 10; the private half as the bytes that PEM would wrap.
pub const PUBLIC_KEY: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
";
const SEED: [u8; 32] = [
    0xd4, 0xee, 0x72, 0xdb, 0xf9, 0x13, 0x58, 0x4a, 0xd5, 0xb6, 0xd8, 0xf1, 0xf7, 0x69, 0xf8, 0xad,
    0x3a, 0xfe, 0x7c, 0x28, 0xcb, 0xf1, 0xd4, 0xfb, 0xe0, 0x97, 0xa8, 0x8f, 0x44, 0x75, 0x58, 0x42,
];

/// The answer to a token that is refused without a hint at the fault.
pub const UNACCEPTED: &str = "This service does not accept the token.";
/// The answer to a token that is not valid yet.
pub const TOO_EARLY: &str = "The token is not valid yet.";
const CRIT: &str = "The token's header has crit; this service supports no extension.";
const B64: &str = "The token's header has b64; its claims must be in base64.";
const TYP: &str = "The token's typ must be JWT or at+jwt, or missing.";
const TOO_LONG: &str = "The token is longer than 8 KiB.";

/// The settings for tokens that are signed with [`SECRET`] or the private half of [`PUBLIC_KEY`].
#[must_use]
pub fn settings(auth: Scheme) -> AuthSettings {
    let jwt_key = match auth {
        Scheme::Hs256 => Some(SECRET.to_owned().into()),
        Scheme::Eddsa => Some(PUBLIC_KEY.to_owned().into()),
        Scheme::Oidc | Scheme::Off => None,
    };
    AuthSettings { auth, jwt_key, jwt_issuer: None, jwt_audience: None }
}

/// Returns claims that are valid for a while.
#[must_use]
pub fn claims(buyer: &str) -> Value {
    json!({ "sub": buyer, "exp": in_seconds(600) })
}

/// Returns the Unix time this many seconds from now.
#[must_use]
pub fn in_seconds(seconds: i64) -> i64 {
    OffsetDateTime::now_utc().unix_timestamp() + seconds
}

/// Returns the claims with one of them added or changed, or removed if the value is null.
#[must_use]
pub fn but(mut claims: Value, claim: &str, value: Value) -> Value {
    let all = claims.as_object_mut().unwrap();
    if value.is_null() {
        all.remove(claim)
    } else {
        all.insert(claim.to_owned(), value)
    };
    claims
}

/// Returns a token signed with [`SECRET`].
#[must_use]
pub fn hs256(claims: &Value) -> String {
    hmac(Algorithm::HS256, claims, SECRET)
}

/// Returns a token signed with this secret.
#[must_use]
pub fn hmac(algorithm: Algorithm, claims: &Value, secret: &str) -> String {
    encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

/// Returns a token signed with the private half of [`PUBLIC_KEY`].
#[must_use]
pub fn eddsa(claims: &Value) -> String {
    ed25519(claims, SEED)
}

/// Returns a token signed with the Ed25519 key of this seed.
#[must_use]
pub fn ed25519(claims: &Value, seed: [u8; 32]) -> String {
    let key = EncodingKey::from_ed_der(&seed_der(seed));
    encode(&Header::new(Algorithm::EdDSA), claims, &key).unwrap()
}

/// PKCS #8 around the seed of an Ed25519 key.
#[must_use]
pub fn seed_der(seed: [u8; 32]) -> Vec<u8> {
    let mut der = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    der.extend(seed);
    der
}

/// Returns the claims with the header `{"alg":"none"}` and no signature.
#[must_use]
pub fn unsigned(claims: &Value) -> String {
    let signed = hs256(claims);
    format!("eyJhbGciOiJub25lIn0.{}.", signed.split('.').nth(1).unwrap())
}

/// Returns a token of exactly these texts, signed with [`SECRET`].
#[must_use]
pub fn raw(header: &str, claims: &str) -> String {
    let signed = [header, claims].map(|text| URL_SAFE_NO_PAD.encode(text)).join(".");
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    format!("{signed}.{}", crypto::sign(signed.as_bytes(), &key, Algorithm::HS256).unwrap())
}

/// Returns tokens signed with [`SECRET`] that must be refused nevertheless, each with the reason.
#[must_use]
pub fn wrong_though_signed() -> Vec<(String, &'static str)> {
    let exp = in_seconds(600);
    let anna = format!(r#"{{"sub":"anna","exp":{exp}}}"#);
    let mut wrong = Vec::new();
    let names =
        [r#""crit":["b64"],"b64":false"#, r#""crit":["exp"]"#, r#""crit":[]"#, r#""crit":null"#];
    for crit in names {
        wrong.push((raw(&format!(r#"{{"alg":"HS256",{crit}}}"#), &anna), CRIT));
    }
    for b64 in ["false", "null", "0"] {
        wrong.push((raw(&format!(r#"{{"alg":"HS256","b64":{b64}}}"#), &anna), B64));
    }
    for typ in ["\"logout+jwt\"", "\"dpop+jwt\"", "\"\"", "7", "null"] {
        wrong.push((raw(&format!(r#"{{"alg":"HS256","typ":{typ}}}"#), &anna), TYP));
    }
    for header in [
        r#"{"alg":"none","alg":"HS256"}"#,
        r#"{"alg":"HS256","alg":"HS256"}"#,
        r#"{"alg":"hs256"}"#,
        r#"{"alg":["HS256"]}"#,
        r#"{"alg":"HS256","kid":7}"#,
        r#"{"typ":"JWT"}"#,
        r#"["HS256"]"#,
    ] {
        wrong.push((raw(header, &anna), UNACCEPTED));
    }
    for claims in [
        format!(r#"{{"sub":"bob","sub":"anna","exp":{exp}}}"#),
        format!(r#"{{"sub":"anna","exp":1,"exp":{exp}}}"#),
        format!(r#"{{"sub":"anna","exp":{exp},"s\u0075b":"bob"}}"#),
        format!(r#"{{"sub":"anna","exp":{exp},"realm":{{"a":1,"a":2}}}}"#),
        format!(r#"{{"sub":"anna","exp":{exp},"iss":["https://issuer.example"]}}"#),
        format!(r#"{{"sub":"anna","exp":{exp},"iss":{{}}}}"#),
        format!(r#"{{"sub":"anna","exp":{exp},"aud":{{"shop":1}}}}"#),
        format!(r#"{{"sub":"anna","exp":{exp},"iat":"today"}}"#),
        format!(r#"["anna",{exp}]"#),
        "anna".to_owned(),
    ] {
        wrong.push((raw(r#"{"alg":"HS256"}"#, &claims), UNACCEPTED));
    }
    let late = in_seconds(90);
    let early = format!(r#"{{"sub":"anna","exp":{exp},"iat":{late}}}"#);
    wrong.push((raw(r#"{"alg":"HS256"}"#, &early), TOO_EARLY));
    wrong.push((hs256(&but(claims("anna"), "groups", json!("g".repeat(8 * 1024)))), TOO_LONG));
    wrong
}

/// Returns a token whose claims are not those that were signed.
#[must_use]
pub fn forged(claims: &Value, signed: &str) -> String {
    let other = hs256(claims);
    let signed: Vec<&str> = signed.split('.').collect();
    format!("{}.{}.{}", signed[0], other.split('.').nth(1).unwrap(), signed[2])
}
