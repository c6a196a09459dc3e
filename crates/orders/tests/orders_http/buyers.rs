//! Identifies the buyer by a token that is signed, valid now, and meant for this service. Everyone
//! else is refused.

use axum::http::StatusCode;
use common::pod::auth::{AuthSettings, Scheme};
use jsonwebtoken::Algorithm;
use reqwest::{Method, RequestBuilder, header};
use serde_json::{Value, json};
use testkit::tokens::{
    self, PUBLIC_KEY, SECRET, TOO_EARLY, UNACCEPTED, but, claims, ed25519, eddsa, forged, hmac,
    hs256, in_seconds, settings, unsigned,
};

use crate::service::{self, Answer, Service};

const NO_TOKEN: &str = "Send a token: Authorization: Bearer, followed by the token.";
const NO_BEARER: &str = "Authorization must be Bearer, followed by a token.";
const EXPIRED: &str = "The token has expired.";
const INCOMPLETE: &str =
    "The token lacks a claim: it must have exp and sub, and iss and aud where they are required.";
const OTHER_ISSUER: &str = "The token is from another issuer.";
const INVALID: &str = "Bearer error=\"invalid_token\"";
const OTHER_AUDIENCE: &str = "The token is not for this service.";
const BAD_SUB: &str =
    "The token's sub must have 1-200 characters, none of them a control character.";

async fn with(settings: &AuthSettings) -> Service {
    Service::with_auth(service::auth(settings).unwrap()).await
}

/// Checks that the request is answered 401 for this reason, and is told what would be accepted.
async fn is_refused(request: RequestBuilder, detail: &str) {
    is_challenged(request, "Bearer", detail).await;
}

async fn is_challenged(request: RequestBuilder, challenge: &str, detail: &str) {
    let answer = Answer::of(request).await;
    answer.is_problem(StatusCode::UNAUTHORIZED);
    assert_eq!(answer.header("www-authenticate"), challenge);
    assert_eq!(answer.detail(), detail);
}

async fn tokens_are_refused(
    orders: &Service,
    tokens: impl IntoIterator<Item = (String, &'static str)>,
) {
    for (token, detail) in tokens {
        let buyer = orders.bearer(token);
        let request = buyer.request(Method::GET, "/api/orders");
        is_challenged(request, INVALID, detail).await;
    }
}

async fn is_accepted(orders: &Service, token: String) {
    let answer = orders.bearer(token).get("/api/orders").await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
}

#[tokio::test]
async fn every_operation_on_orders_refuses_a_missing_token_before_any_other_check() {
    let orders = Service::start().await;
    let id = orders.buyer("anna").order().await;
    let one = format!("/api/orders/{id}");
    for (method, path) in [
        (Method::POST, "/api/orders"),
        (Method::GET, "/api/orders"),
        (Method::GET, &one),
        (Method::DELETE, &one),
        (Method::POST, &format!("{one}/payment")),
        (Method::GET, "/api/orders/x"),
        (Method::GET, "/api/orders?limit=0"),
    ] {
        is_refused(orders.request(method.clone(), path), NO_TOKEN).await;
        let garbage = orders.request(method, path).body("{").bearer_auth("garbage");
        is_challenged(garbage, INVALID, UNACCEPTED).await;
    }
    orders.holds(1, 1).await;
    // Tickets are public.
    assert_eq!(orders.get("/api/tickets").await.status, StatusCode::OK);
}

#[tokio::test]
async fn anything_but_a_single_bearer_token_is_refused() {
    let orders = Service::start().await;
    let token = hs256(&claims("anna"));
    let with = |values: &[&str]| {
        let request = orders.request(Method::GET, "/api/orders");
        values.iter().fold(request, |request, value| {
            let value = header::HeaderValue::from_bytes(value.as_bytes()).unwrap();
            request.header(header::AUTHORIZATION, value)
        })
    };
    for value in ["Basic YW5uYTphbm5h", "Bearer", &token, "é é"] {
        is_refused(with(&[value]), NO_BEARER).await;
    }
    for value in ["Bearer ", "Bearer a.b.c", &format!("Bearer {token}x")] {
        // A client may drop the space at the end.
        match value.trim_end() {
            "Bearer" => is_refused(with(&[value]), NO_BEARER).await,
            _ => is_challenged(with(&[value]), INVALID, UNACCEPTED).await,
        }
    }
    let bearer = format!("bearer {token}");
    assert_eq!(Answer::of(with(&[&bearer])).await.status, StatusCode::OK);
    let twice = Answer::of(with(&[&bearer, &bearer])).await;
    twice.refuses(StatusCode::BAD_REQUEST, &[("Authorization", "must be given once")]);
}

#[tokio::test]
async fn a_token_that_is_not_signed_with_the_secret_is_refused() {
    let orders = Service::start().await;
    let anna = claims("anna");
    let bobs = hs256(&claims("bob"));
    tokens_are_refused(
        &orders,
        [
            (hmac(Algorithm::HS256, &anna, "another secret that is also long enough"), UNACCEPTED),
            (hmac(Algorithm::HS384, &anna, SECRET), UNACCEPTED),
            (hmac(Algorithm::HS512, &anna, SECRET), UNACCEPTED),
            (eddsa(&anna), UNACCEPTED),
            (unsigned(&anna), UNACCEPTED),
            (forged(&anna, &bobs), UNACCEPTED),
        ],
    )
    .await;
    is_accepted(&orders, hs256(&anna)).await;
}

#[tokio::test]
async fn a_token_that_is_not_signed_with_the_private_key_is_refused() {
    let orders = with(&settings(Scheme::Eddsa)).await;
    let anna = claims("anna");
    let bobs = eddsa(&claims("bob"));
    tokens_are_refused(
        &orders,
        [
            (ed25519(&anna, [7; 32]), UNACCEPTED),
            // The public key is public: used as the secret of an HMAC, it must prove nothing.
            (hmac(Algorithm::HS256, &anna, PUBLIC_KEY), UNACCEPTED),
            (hmac(Algorithm::HS256, &anna, PUBLIC_KEY.trim()), UNACCEPTED),
            (hs256(&anna), UNACCEPTED),
            (unsigned(&anna), UNACCEPTED),
            (forged(&anna, &bobs), UNACCEPTED),
        ],
    )
    .await;
    is_accepted(&orders, eddsa(&anna)).await;
}

#[tokio::test]
async fn a_token_is_refused_before_and_after_its_validity_within_the_clock_tolerance() {
    let orders = Service::start().await;
    let anna = |claim, value: Value| hs256(&but(claims("anna"), claim, value));
    tokens_are_refused(
        &orders,
        [
            (anna("exp", json!(in_seconds(-90))), EXPIRED),
            (anna("exp", json!(0)), EXPIRED),
            (anna("nbf", json!(in_seconds(90))), TOO_EARLY),
        ],
    )
    .await;
    for token in [
        anna("exp", json!(in_seconds(-30))),
        anna("exp", json!(1e10)),
        anna("nbf", json!(in_seconds(30))),
        anna("nbf", json!(in_seconds(-30))),
    ] {
        is_accepted(&orders, token).await;
    }
}

#[tokio::test]
async fn a_token_without_an_expiry_or_a_subject_is_refused() {
    let orders = Service::start().await;
    let anna = |claim, value| hs256(&but(claims("anna"), claim, value));
    tokens_are_refused(
        &orders,
        [
            (anna("exp", Value::Null), INCOMPLETE),
            (anna("exp", json!("tomorrow")), INCOMPLETE),
            (anna("sub", Value::Null), INCOMPLETE),
            (anna("sub", json!(7)), INCOMPLETE),
            (anna("nbf", json!("yesterday")), UNACCEPTED),
            (anna("sub", json!("")), BAD_SUB),
            (anna("sub", json!("an\u{0}na")), BAD_SUB),
            (anna("sub", json!("anna\n")), BAD_SUB),
            (anna("sub", json!("an\u{85}na")), BAD_SUB),
            (anna("sub", json!("é".repeat(201))), BAD_SUB),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_configured_issuer_and_audience_are_required_of_every_token() {
    let asking = AuthSettings {
        jwt_issuer: Some("https://issuer.example".to_owned()),
        jwt_audience: Some("orders".to_owned()),
        ..settings(Scheme::Hs256)
    };
    let orders = with(&asking).await;
    let right = but(claims("anna"), "iss", json!("https://issuer.example"));
    let right = but(right, "aud", json!(["shop", "orders"]));
    let wrong = |claim, value| hs256(&but(right.clone(), claim, value));
    tokens_are_refused(
        &orders,
        [
            (wrong("iss", Value::Null), INCOMPLETE),
            (wrong("iss", json!("https://issuer.example/")), OTHER_ISSUER),
            (wrong("aud", Value::Null), INCOMPLETE),
            (wrong("aud", json!([])), OTHER_AUDIENCE),
            (wrong("aud", json!("order")), OTHER_AUDIENCE),
            (wrong("aud", json!(["shop"])), OTHER_AUDIENCE),
        ],
    )
    .await;
    is_accepted(&orders, hs256(&right)).await;
    is_accepted(&orders, wrong("aud", json!("orders"))).await;
}

#[tokio::test]
async fn without_a_configured_audience_a_token_that_names_one_is_refused() {
    let orders = Service::start().await;
    let anna = |claim, value| hs256(&but(claims("anna"), claim, value));
    let shops = [
        (anna("aud", json!("shop")), OTHER_AUDIENCE),
        (anna("aud", json!(["shop"])), OTHER_AUDIENCE),
    ];
    tokens_are_refused(&orders, shops).await;
    is_accepted(&orders, anna("iss", json!("anybody"))).await;
}

#[tokio::test]
async fn a_token_with_a_critical_extension_or_an_ambiguous_claim_is_refused() {
    let orders = Service::start().await;
    tokens_are_refused(&orders, tokens::wrong_though_signed()).await;
    let anna = claims("anna").to_string();
    for header in [
        r#"{"alg":"HS256"}"#,
        r#"{"alg":"HS256","typ":"at+jwt","b64":true,"kid":"any","jku":"https://elsewhere.example"}"#,
        r#"{"alg":"HS256","typ":"application/AT+jwt"}"#,
    ] {
        is_accepted(&orders, tokens::raw(header, &anna)).await;
    }
    // As long as the tokens of issuers that list all of a user's groups.
    let groups = but(claims("anna"), "groups", json!(vec!["g".repeat(1_000); 5]));
    is_accepted(&orders, hs256(&groups)).await;
}

#[tokio::test]
async fn a_buyer_is_exactly_the_tokens_subject() {
    let orders = Service::start().await;
    for name in ["anna", "Anna", " anna", "anna|7 \"é\" 🎫", &"🎫".repeat(200)] {
        let ticket = orders.ticket("1").await;
        let buyer = orders.buyer(name);
        // The longest name with the longest key fits too.
        let order = buyer.reserve_with_key(&"k".repeat(255), ticket).await;
        assert_eq!((order.status, &order.json()["buyer"]), (StatusCode::CREATED, &json!(name)));
        let list = buyer.get("/api/orders").await.json();
        assert_eq!(list["orders"], json!([order.json()]));
    }
}

#[tokio::test]
async fn a_buyer_neither_sees_nor_changes_another_buyers_order() {
    let orders = Service::start().await;
    let (anna, bob) = (orders.buyer("anna"), orders.buyer("bob"));
    let id = anna.order().await;
    for answer in [bob.read(&id).await, bob.cancel(&id).await, bob.pay(&id, "tok_visa").await] {
        answer.is_problem(StatusCode::NOT_FOUND);
        assert_eq!(answer.detail(), "You have no order with this id.");
    }
    assert_eq!(bob.get("/api/orders").await.body, r#"{"orders":[],"next":null}"#);
    orders.is_now(&anna, &id, "reserved", 1).await;
    assert_eq!(orders.provider.calls(), []);
}

#[tokio::test]
async fn with_authentication_off_every_order_belongs_to_the_default_buyer() {
    let orders = with(&settings(Scheme::Off)).await;
    let ticket = orders.ticket("1").await;
    for buyer in [orders.bearer("garbage".to_owned()), orders.buyer("anna")] {
        let order = buyer.reserve(ticket).await;
        if order.status == StatusCode::CREATED {
            assert_eq!(order.json()["buyer"], "local");
        } else {
            assert!(order.detail().starts_with("You have already reserved"), "{}", order.body);
        }
    }
    assert_eq!(orders.get("/api/orders").await.json()["orders"].as_array().unwrap().len(), 1);
}
