//! Settings that would accept no token, or every token, stop the start with an error that names the
//! setting.

use common::pod::auth::{AuthSettings, Scheme};
use testkit::{
    issuer::{self, AUDIENCE},
    tokens::{PUBLIC_KEY, SECRET, settings},
};

use crate::service;

#[test]
fn an_unusable_key_is_refused_and_its_setting_named() {
    let refused = |auth, key: Option<&str>| {
        let jwt_key = key.map(|key| key.to_owned().into());
        service::auth(&AuthSettings { jwt_key, ..settings(auth) }).unwrap_err()
    };
    for secret in [None, Some(""), Some(&*"k".repeat(31))] {
        let reason = refused(Scheme::Hs256, secret);
        let bytes = secret.map_or(0, str::len);
        let expected = format!("JWT_KEY has {bytes} bytes; for hs256 it must have at least 32");
        assert_eq!(reason, expected);
    }
    let base64 = PUBLIC_KEY.lines().nth(1).unwrap();
    let rsa = format!("MIIBIjAN{}", "A".repeat(384));
    for key in [
        PUBLIC_KEY,
        &format!("\n{PUBLIC_KEY}"),
        "-----BEGIN RSA PUBLIC KEY-----",
        "-----BEGIN CERTIFICATE-----",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBm/RApphM3+hUG6wWfcO5bIUIanKMLaywxcOKw= anna",
        "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTY=",
        r#"{"kty":"OKP","crv":"Ed25519","x":"Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE"}"#,
        base64,
        &rsa,
    ] {
        let reason = refused(Scheme::Hs256, Some(key));
        assert!(
            reason.starts_with("JWT_KEY is a key in PEM or a similar form; for hs256"),
            "{key}"
        );
        assert!(!reason.contains(key), "{reason}");
    }
    let secret = "MFUs3RZ6vmyzm7dYoZ1/nUpSjkMiR8ZYsXw3RbVPRkk=".to_owned();
    let random = AuthSettings { jwt_key: Some(secret.into()), ..settings(Scheme::Hs256) };
    assert!(service::auth(&random).is_ok(), "a random secret in base64 is one");
    let other_kind = PUBLIC_KEY.replace("MCowBQYDK2Vw", "MCowBQYDK2Vu");
    for pem in [
        None,
        Some("MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE="),
        Some(SECRET),
        Some(&*other_kind),
        Some(&*PUBLIC_KEY.replace("MCow", "M")),
    ] {
        let reason = refused(Scheme::Eddsa, pem);
        assert!(reason.starts_with("JWT_KEY is not an Ed25519 public key in PEM: "), "{reason}");
        assert!(pem.is_none_or(|pem| !reason.contains(pem)), "{reason}");
    }
}

#[test]
fn a_key_is_never_shown() {
    let auth = service::auth(&settings(Scheme::Hs256)).unwrap();
    assert!(!format!("{auth:?}").contains("secret of"), "{auth:?}");
}

#[test]
fn an_unusable_issuer_is_refused_and_its_setting_named() {
    for url in ["", "login.example.com", "http://login.example.com", "https://a@login.example.com"]
    {
        let reason = service::auth(&issuer::settings(url)).unwrap_err();
        assert!(reason.starts_with("JWT_ISSUER"), "{reason}");
    }
    let for_nobody =
        AuthSettings { jwt_audience: None, ..issuer::settings("https://login.example.com") };
    assert!(service::auth(&for_nobody).unwrap_err().starts_with("JWT_AUDIENCE"), "{AUDIENCE}");
}
