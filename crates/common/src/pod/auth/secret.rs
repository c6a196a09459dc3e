//! Checks the secret of HS256. It must not be a public key: anyone may have that, and could make
//! tokens with it.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};

/// The shortest secret, in bytes: the size of HS256's hash (RFC 7518, section 3.2).
pub(super) const SHORTEST: usize = 32;

/// Checks that a text can be the secret.
///
/// # Errors
/// Why it cannot.
pub(super) fn check(text: &str) -> Result<(), String> {
    if is_a_key(text) {
        return Err(
            "JWT_KEY is a key in PEM or a similar form; for hs256 it must be a secret that nobody \
                    else has. For a public key, set AUTH to eddsa, or to oidc."
                .to_owned(),
        );
    }
    if text.len() < SHORTEST {
        let has = text.len();
        return Err(format!("JWT_KEY has {has} bytes; for hs256 it must have at least {SHORTEST}"));
    }
    Ok(())
}

/// Recognizes keys and certificates in PEM, OpenSSH or JWK form, and PEM without its first and last
/// line.
fn is_a_key(text: &str) -> bool {
    let text = text.trim();
    text.contains("-----BEGIN ")
        || text.starts_with("ssh-")
        || text.starts_with("ecdsa-sha2-")
        || serde_json::from_str::<Map<String, Value>>(text).is_ok()
        || is_der(text)
}

/// Recognizes base64 of an ASN.1 sequence of exactly this length that begins with another sequence,
/// as public keys and certificates do, or with a number, as private keys do.
fn is_der(text: &str) -> bool {
    const SEQUENCE: u8 = 0x30;
    const INTEGER: u8 = 0x02;
    let text: String = text.split_whitespace().collect();
    let Ok(bytes) = STANDARD.decode(text) else { return false };
    let (length, content) = match bytes[..] {
        [SEQUENCE, length @ ..=0x7f, ref content @ ..] => (usize::from(length), content),
        [SEQUENCE, 0x81, length, ref content @ ..] => (usize::from(length), content),
        [SEQUENCE, 0x82, high, low, ref content @ ..] => {
            (usize::from(u16::from_be_bytes([high, low])), content)
        }
        _ => return false,
    };
    length == content.len() && matches!(content, [SEQUENCE | INTEGER, ..])
}
