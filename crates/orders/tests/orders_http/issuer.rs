//! Tokens signed by an issuer that publishes and rotates its keys. The service discovers and
//! fetches the keys, and keeps them while the issuer is down.

use std::time::Duration;

use axum::http::StatusCode;
use common::pod::{auth::Auth, health::Health};
use futures::future::join_all;
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use testkit::{
    PATIENCE,
    issuer::{Issuer, Key, Mood, issued_by, settings, spawn_refresh},
    tokens::{
        TOO_EARLY, UNACCEPTED, but, claims, eddsa, forged, hmac, hs256, in_seconds, unsigned,
    },
    until,
};
use tokio::{net::TcpListener, time::Instant};

use crate::service::{self, Answer, Service};

const UNKNOWN_KEY: &str = "The token is signed with a key that its issuer does not have.";
const CANNOT_CHECK: &str =
    "The token issuer's keys cannot be fetched, so this token cannot be verified. Try again later.";
const INCOMPLETE: &str =
    "The token lacks a claim: it must have exp and sub, and iss and aud where they are required.";
const OTHER_ISSUER: &str = "The token is from another issuer.";
const OTHER_AUDIENCE: &str = "The token is not for this service.";
/// The shortest time between two fetches that unknown keys can trigger.
const EVERY: Duration = Duration::from_secs(10);

/// Starts the service with the issuer at this URL.
async fn with(url: &str) -> (Service, Health) {
    let auth: Auth = service::auth(&settings(url)).unwrap();
    let health = spawn_refresh(&auth);
    (Service::with_auth(auth).await, health)
}

async fn asked(orders: &Service, token: String) -> Answer {
    orders.bearer(token).get("/api/orders").await
}

async fn until_answered(orders: &Service, token: &str, status: StatusCode) {
    until(&format!("a token is answered {status}"), async || {
        asked(orders, token.to_owned()).await.status == status
    })
    .await;
}

async fn is_refused(orders: &Service, token: String, detail: &str) {
    let answer = asked(orders, token).await;
    answer.is_problem(StatusCode::UNAUTHORIZED);
    assert_eq!(answer.detail(), detail);
    assert_eq!(answer.header("www-authenticate"), "Bearer error=\"invalid_token\"");
}

/// Checks that the token is neither accepted nor refused: it may be valid.
async fn cannot_be_checked(orders: &Service, token: String) {
    let begun = Instant::now();
    let answer = asked(orders, token).await;
    answer.is_problem(StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.detail(), CANNOT_CHECK);
    assert_eq!(answer.header("retry-after"), "5");
    assert!(begun.elapsed() < Duration::from_secs(8), "longer than a request may take");
}

#[tokio::test]
async fn only_tokens_signed_with_the_issuers_keys_are_accepted() {
    let (rsa, ec, ed) = (Key::rs256("rsa"), Key::es256("ec"), Key::eddsa("ed"));
    let (begun, issuer) = (Instant::now(), Issuer::start(&[&rsa, &ec, &ed]).await);
    let (orders, health) = with(&issuer.url).await;
    until("the service is ready", async || health.is_ready()).await;
    let anna = issuer.claims("anna");
    for key in [&rsa, &ec, &ed] {
        let ticket = orders.ticket("1").await;
        let order = orders.bearer(key.sign(&anna)).reserve(ticket).await;
        assert_eq!((order.status, &order.json()["buyer"]), (StatusCode::CREATED, &json!("anna")));
        let unnamed = asked(&orders, key.sign_unnamed(&anna)).await;
        assert_eq!(unnamed.status, StatusCode::OK, "the issuer has one key for this algorithm");
    }
    is_refused(&orders, Key::es256("ec").sign(&anna), UNACCEPTED).await;
    is_refused(&orders, Key::eddsa("new").sign(&anna), UNKNOWN_KEY).await;
    // One key's name with another key's algorithm.
    is_refused(&orders, Key::eddsa("rsa").sign(&anna), UNKNOWN_KEY).await;
    // A published key proves nothing as the secret of an HMAC.
    let modulus = rsa.jwk["n"].as_str().unwrap();
    for token in [
        hmac(Algorithm::HS256, &anna, modulus),
        hmac(Algorithm::HS256, &anna, &rsa.jwk.to_string()),
        hs256(&anna),
        unsigned(&anna),
        forged(&anna, &hs256(&anna)),
        "garbage".to_owned(),
    ] {
        is_refused(&orders, token, UNACCEPTED).await;
    }
    is_refused(&orders, forged_of(&anna, &rsa.sign(&issuer.claims("bob"))), UNACCEPTED).await;
    is_refused(&orders, eddsa(&anna), UNACCEPTED).await;
    let wrong = |claim, value| rsa.sign(&but(anna.clone(), claim, value));
    for (token, detail) in [
        (wrong("exp", Value::Null), INCOMPLETE),
        (wrong("exp", json!(in_seconds(-90))), "The token has expired."),
        (wrong("nbf", json!(in_seconds(90))), TOO_EARLY),
        (wrong("iat", json!(in_seconds(90))), TOO_EARLY),
        (wrong("sub", Value::Null), INCOMPLETE),
        (wrong("iss", Value::Null), INCOMPLETE),
        (wrong("iss", json!(format!("{}/", issuer.url))), OTHER_ISSUER),
        (wrong("iss", json!([issuer.url])), UNACCEPTED),
        (wrong("aud", Value::Null), INCOMPLETE),
        (wrong("aud", json!("account")), OTHER_AUDIENCE),
        (rsa.sign(&claims("anna")), INCOMPLETE),
    ] {
        is_refused(&orders, token, detail).await;
    }
    let asked = issuer.asked().1 as u64;
    let most = 2 + begun.elapsed().as_secs() / EVERY.as_secs();
    assert!(asked <= most, "invalid tokens triggered {asked} fetches");
}

/// Puts the signature of one token on the header of the same token and the claims of another.
fn forged_of(claims: &Value, signed: &str) -> String {
    let other = hs256(claims);
    let parts: Vec<&str> = signed.split('.').collect();
    format!("{}.{}.{}", parts[0], other.split('.').nth(1).unwrap(), parts[2])
}

#[tokio::test]
async fn a_new_key_is_found_and_a_withdrawn_one_is_no_longer_used() {
    let (old, new) = (Key::rs256("2025"), Key::es256("2026"));
    let issuer = Issuer::start(&[&old]).await;
    let (orders, _) = with(&issuer.url).await;
    let anna = issuer.claims("anna");
    until_answered(&orders, &old.sign(&anna), StatusCode::OK).await;
    issuer.has(&[&new]);
    // Before the next fetch that tokens can trigger.
    until_answered(&orders, &new.sign(&anna), StatusCode::OK).await;
    is_refused(&orders, old.sign(&anna), UNKNOWN_KEY).await;
}

#[tokio::test]
async fn unknown_keys_trigger_at_most_one_fetch_in_ten_seconds() {
    let key = Key::eddsa("a");
    let issuer = Issuer::start(&[&key]).await;
    let (orders, health) = with(&issuer.url).await;
    until("the service is ready", async || health.is_ready()).await;
    let (begun, anna) = (Instant::now(), issuer.claims("anna"));
    let mut sent = 0;
    while issuer.asked().1 < 3 {
        let tokens = (0..50).map(|n| Key::eddsa(&format!("made up {}", sent + n)).sign(&anna));
        for answer in join_all(tokens.map(|token| asked(&orders, token))).await {
            match answer.status {
                StatusCode::UNAUTHORIZED => assert_eq!(answer.detail(), UNKNOWN_KEY),
                // More than may wait for one fetch.
                _ => answer.is_problem(StatusCode::SERVICE_UNAVAILABLE),
            }
        }
        sent += 50;
        assert_eq!(asked(&orders, key.sign(&anna)).await.status, StatusCode::OK);
        assert!(
            begun.elapsed() < PATIENCE,
            "{sent} tokens triggered fetches: {:?}",
            issuer.asked()
        );
    }
    assert!(begun.elapsed() >= EVERY, "asked again after {:?}", begun.elapsed());
    assert_eq!(issuer.asked(), (3, 3), "after {sent} tokens");
}

#[tokio::test]
async fn a_service_started_without_its_issuer_refuses_nobody_and_serves_once_it_is_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let url = format!("http://{address}/realm");
    let (orders, health) = with(&url).await;
    let key = Key::eddsa("a");
    cannot_be_checked(&orders, key.sign(&issued_by(&url, "anna"))).await;
    assert!(!health.is_ready());
    assert_eq!(orders.get("/api/tickets").await.status, StatusCode::OK);
    is_refused(&orders, "garbage".to_owned(), UNACCEPTED).await;
    let issuer = Issuer::on(TcpListener::bind(address).await.unwrap(), &[&key]);
    until_answered(&orders, &key.sign(&issuer.claims("anna")), StatusCode::OK).await;
    assert!(health.is_ready());
}

#[tokio::test]
async fn while_the_issuer_is_down_its_keys_stay_valid_and_the_service_ready() {
    let (key, new) = (Key::eddsa("a"), Key::es256("new"));
    let issuer = Issuer::start(&[&key]).await;
    let (orders, health) = with(&issuer.url).await;
    let (url, anna) = (issuer.url.clone(), issuer.claims("anna"));
    until_answered(&orders, &key.sign(&anna), StatusCode::OK).await;
    drop(issuer);
    // After a failed fetch, an unknown key may still be the issuer's.
    until_answered(&orders, &new.sign(&anna), StatusCode::SERVICE_UNAVAILABLE).await;
    cannot_be_checked(&orders, new.sign(&anna)).await;
    assert_eq!(asked(&orders, key.sign(&anna)).await.status, StatusCode::OK);
    assert!(health.is_ready());
    let address = url.strip_prefix("http://").unwrap().strip_suffix("/realm").unwrap();
    let _back = Issuer::on(TcpListener::bind(address).await.unwrap(), &[&key, &new]);
    until_answered(&orders, &new.sign(&anna), StatusCode::OK).await;
}

#[tokio::test]
async fn a_faulty_issuer_yields_no_keys_and_delays_no_request() {
    let key = Key::eddsa("a");
    let moods = [
        Mood::Failing,
        Mood::Silent,
        Mood::Endless,
        Mood::Redirecting,
        Mood::Another,
        Mood::KeysElsewhere("http://169.254.169.254/keys"),
        Mood::KeysElsewhere("file:///etc/passwd"),
        Mood::KeysElsewhere("keys"),
        Mood::Text("garbage".to_owned()),
        Mood::Text(r#"{"keys":{}}"#.to_owned()),
        Mood::Text(json!({ "keys": vec![&key.jwk; 101] }).to_string()),
        Mood::Text(format!(r#"{{"keys":[{0}],"keys":[{0}]}}"#, key.jwk)),
        Mood::Text(r#"{"keys":[]}"#.to_owned()),
    ];
    join_all(moods.into_iter().map(async |mood| {
        let issuer = Issuer::start(&[&key]).await;
        issuer.is(mood.clone());
        let (orders, health) = with(&issuer.url).await;
        let token = key.sign(&issuer.claims("anna"));
        until("the issuer is asked", async || issuer.asked().0 > 0).await;
        if mood == Mood::Text(r#"{"keys":[]}"#.to_owned()) {
            // The issuer answers that it has no key.
            until_answered(&orders, &token, StatusCode::UNAUTHORIZED).await;
        } else {
            cannot_be_checked(&orders, token.clone()).await;
            if mood != Mood::Silent {
                until("the issuer is asked again", async || issuer.asked().0 > 1).await;
                cannot_be_checked(&orders, token.clone()).await;
            }
        }
        assert!(!health.is_ready(), "{mood:?}");
        issuer.is(Mood::Well);
        until_answered(&orders, &token, StatusCode::OK).await;
        assert!(health.is_ready(), "{mood:?}");
    }))
    .await;
}

#[tokio::test]
async fn an_unsuitable_key_is_not_used() {
    let good = Key::eddsa("good");
    let bad = [
        Key::es256("to encrypt").shown("use", json!("enc")),
        Key::es256("to sign").shown("use", Value::Null).shown("key_ops", json!(["sign"])),
        Key::rs256("for another algorithm").shown("alg", json!("RS512")),
        Key::rs256("for pss").shown("alg", json!("PS256")),
        Key::es256("for hmac").shown("alg", json!("HS256")),
        Key::es256("private").shown("d", json!("AAAA")),
        Key::small_rs256("small"),
        Key::eddsa("short").shown("x", json!("AAAA")),
        Key::es256("cut").shown("y", json!("AAAA")),
        Key::es256("of another curve").shown("crv", json!("P-384")),
        Key::eddsa("twice"),
        Key::eddsa("twice"),
    ];
    let mut all: Vec<&Key> = bad.iter().collect();
    all.push(&good);
    let issuer = Issuer::start(&all).await;
    let (orders, health) = with(&issuer.url).await;
    let anna = issuer.claims("anna");
    until_answered(&orders, &good.sign(&anna), StatusCode::OK).await;
    assert!(health.is_ready());
    for key in &bad {
        is_refused(&orders, key.sign(&anna), UNKNOWN_KEY).await;
    }
    // A token must name its key if several could fit.
    is_refused(&orders, good.sign_unnamed(&anna), UNKNOWN_KEY).await;
    let off_the_curve = Key::es256("off").shown("x", json!("A".repeat(43)));
    issuer.has(&[&good, &off_the_curve]);
    until("the key is fetched and rejected", async || {
        asked(&orders, off_the_curve.sign(&anna)).await.detail() == UNACCEPTED
    })
    .await;
}
