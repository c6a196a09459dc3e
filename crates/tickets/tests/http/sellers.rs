//! A ticket belongs to its seller. Requests without a token store and change nothing, and no seller
//! changes another's ticket.

use axum::http::StatusCode;
use common::pod::auth::Scheme;
use futures::future::join_all;
use jsonwebtoken::Algorithm;
use reqwest::Method;
use serde_json::{Value, json};

use testkit::{
    issuer::{self, Issuer, Key, spawn_refresh},
    tokens::{
        PUBLIC_KEY, UNACCEPTED, but, claims, ed25519, eddsa, forged, hmac, hs256, settings,
        unsigned, wrong_though_signed,
    },
    until,
};

use crate::service::{Answer, Service, sellers};

const INVALID: &str = r#"Bearer error="invalid_token""#;
const TICKET: &str = r#"{"title":"Concert","price":20.5}"#;
const FREE: &str = r#"{"title":"Concert","price":0}"#;
const ANOTHERS: &str = "This ticket belongs to another seller.";
const NOBODYS: &str = "This ticket is from before tickets had sellers, so no seller may change it.";

async fn is_challenged(answer: Answer, challenge: &str, detail: &str) {
    answer.is_problem(StatusCode::UNAUTHORIZED);
    assert_eq!(answer.header("www-authenticate"), challenge);
    assert_eq!(answer.detail(), detail);
}

#[tokio::test]
async fn without_a_token_every_ticket_can_be_read_and_none_stored_or_changed() {
    let tickets = Service::start().await;
    let created = tickets.post(TICKET).await;
    let path = format!("/api/tickets/{}", created.id());
    let no_token = "Send a token: Authorization: Bearer, followed by the token.";
    for (method, path) in [(Method::POST, "/api/tickets"), (Method::PUT, &*path)] {
        let request = tickets.anonymous(method, path).header("content-type", "application/json");
        for body in [FREE, "{"] {
            let request = request.try_clone().unwrap().body(body).header("if-match", "*");
            is_challenged(Answer::of(request).await, "Bearer", no_token).await;
        }
    }
    for path in ["/api/tickets", &path] {
        let read = Answer::of(tickets.anonymous(Method::GET, path)).await;
        assert_eq!(read.status, StatusCode::OK, "{}", read.body);
    }
    assert_eq!(tickets.get(&path).await.body, created.body);
    tickets.holds(1, 1).await;
}

#[tokio::test]
async fn a_rejected_token_stores_and_changes_no_ticket() {
    let tickets = Service::start().await;
    let id = tickets.post(TICKET).await.id();
    let sally = claims("sally");
    let mut wrong = wrong_though_signed();
    wrong.push((unsigned(&sally), UNACCEPTED));
    wrong.push(("garbage".to_owned(), UNACCEPTED));
    wrong.push((hs256(&but(sally.clone(), "exp", json!(1))), "The token has expired."));
    wrong.push((hs256(&but(sally, "aud", json!("shop"))), "The token is not for this service."));
    for (token, detail) in wrong {
        let seller = tickets.bearer(token);
        for answer in [seller.post(TICKET).await, seller.put(&id, "*", FREE).await] {
            is_challenged(answer, INVALID, detail).await;
        }
    }
    tickets.holds(1, 1).await;
}

#[tokio::test]
async fn a_token_signed_with_another_key_stores_and_changes_no_ticket() {
    let sally = claims("sally");
    let mallory = eddsa(&claims("mallory"));
    let by_hs256 = vec![eddsa(&sally), forged(&sally, &hs256(&claims("mallory")))];
    let by_eddsa = vec![
        ed25519(&sally, [7; 32]),
        // The public key is public: used as the secret of an HMAC, it must prove nothing.
        hmac(Algorithm::HS256, &sally, PUBLIC_KEY),
        hs256(&sally),
        unsigned(&sally),
        forged(&sally, &mallory),
    ];
    for (scheme, right, wrong) in
        [(Scheme::Hs256, hs256(&sally), by_hs256), (Scheme::Eddsa, eddsa(&sally), by_eddsa)]
    {
        let tickets = Service::with_sellers(sellers(&settings(scheme), None)).await;
        let created = tickets.bearer(right).post(TICKET).await;
        assert_eq!(created.status, StatusCode::CREATED, "{}", created.body);
        for token in wrong {
            let seller = tickets.bearer(token);
            for answer in [seller.post(TICKET).await, seller.put(&created.id(), "*", FREE).await] {
                is_challenged(answer, INVALID, UNACCEPTED).await;
            }
        }
        tickets.holds(1, 1).await;
    }
}

#[tokio::test]
async fn tokens_of_sellers_are_verified_with_the_issuers_keys() {
    let (rsa, ec, ed) = (Key::rs256("rsa"), Key::es256("ec"), Key::eddsa("ed"));
    let issuer = Issuer::start(&[&rsa, &ec, &ed]).await;
    let sellers = sellers(&issuer::settings(&issuer.url), None);
    let health = spawn_refresh(&sellers.auth);
    let tickets = Service::with_sellers(sellers).await;
    until("the service has the issuer's keys", async || health.is_ready()).await;
    let (sally, bob) = (issuer.claims("sally"), issuer.claims("bob"));
    for key in [&rsa, &ec, &ed] {
        let created = tickets.bearer(key.sign(&sally)).post(TICKET).await;
        assert_eq!(created.status, StatusCode::CREATED, "{}", created.body);
        assert_eq!(created.json()["seller"], "sally");
        let id = created.id();
        tickets.bearer(key.sign(&bob)).put(&id, "*", FREE).await.is_problem(StatusCode::FORBIDDEN);
        let changed = tickets.bearer(key.sign(&sally)).put(&id, "*", FREE).await;
        assert_eq!(changed.status, StatusCode::OK, "{}", changed.body);
        for token in [
            key.sign(&but(sally.clone(), "iss", json!([issuer.url]))),
            hmac(Algorithm::HS256, &sally, &key.jwk.to_string()),
            unsigned(&sally),
        ] {
            let seller = tickets.bearer(token);
            for answer in [seller.post(TICKET).await, seller.put(&id, "*", FREE).await] {
                is_challenged(answer, INVALID, UNACCEPTED).await;
            }
        }
    }
    tickets.holds(3, 6).await;
}

#[tokio::test]
async fn only_its_seller_changes_a_ticket() {
    let tickets = Service::start().await;
    let (sally, bob) = (tickets.seller("sally"), tickets.seller("bob"));
    let ticket = sally.post(TICKET).await;
    assert_eq!(ticket.json()["seller"], "sally");
    let id = ticket.id();
    // Refused whatever else is wrong with the request, and however similar the seller's name.
    for (seller, if_match) in [(&bob, "*"), (&bob, "\"1\""), (&bob, "\"7\"")] {
        let refused = seller.put(&id, if_match, FREE).await;
        refused.is_problem(StatusCode::FORBIDDEN);
        assert_eq!(refused.detail(), ANOTHERS);
    }
    for name in ["Sally", "sally ", " sally", "sall", "local"] {
        tickets.seller(name).put(&id, "*", FREE).await.is_problem(StatusCode::FORBIDDEN);
    }
    tickets
        .execute("update tickets set hold_order_id = gen_random_uuid(), hold_status = 'reserved'")
        .await;
    bob.put(&id, "*", FREE).await.is_problem(StatusCode::FORBIDDEN);
    sally.put(&id, "*", FREE).await.is_problem(StatusCode::CONFLICT);
    tickets.execute("update tickets set hold_order_id = null, hold_status = null").await;
    tickets.holds(1, 1).await;

    let changed = sally.put(&id, "\"1\"", FREE).await;
    assert_eq!((changed.status, &changed.json()["seller"]), (StatusCode::OK, &json!("sally")));
    let told: Vec<Value> = serde_json::from_value(
        tickets
            .one("select jsonb_agg((envelope::jsonb->'data') - '{created_at,updated_at}'::text[] order by position) from bus.log")
            .await,
    )
    .unwrap();
    assert_eq!(told, [ticket.json(), changed.json()], "events carry the seller");
    bob.put("01936b2e-7c00-7000-8000-000000000001", "*", FREE)
        .await
        .is_problem(StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn of_sellers_who_change_a_ticket_concurrently_only_its_own_succeeds() {
    let tickets = Service::start().await;
    let id = tickets.post(TICKET).await.id();
    let names: Vec<String> = (0..20).map(|n| format!("seller {n}")).collect();
    let others = names.iter().map(async |name| tickets.seller(name).put(&id, "*", FREE).await);
    let (own, others) = tokio::join!(tickets.put(&id, "*", TICKET), join_all(others));
    assert_eq!(own.status, StatusCode::OK);
    for other in others {
        other.is_problem(StatusCode::FORBIDDEN);
    }
    tickets.holds(1, 2).await;
}

#[tokio::test]
async fn two_sellers_with_one_idempotency_key_neither_collide_nor_see_each_others_answers() {
    let tickets = Service::start().await;
    let (sally, bob) = (tickets.seller("sally"), tickets.seller("bob"));
    let (hers, his) =
        tokio::join!(sally.post_with_key("k", TICKET), bob.post_with_key("k", TICKET));
    let other = tickets.seller("bob k").post_with_key("k", FREE).await;
    for (answer, seller) in [(&hers, "sally"), (&his, "bob"), (&other, "bob k")] {
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
        assert_eq!(answer.json()["seller"], seller);
        assert!(answer.headers.get("idempotency-replayed").is_none());
    }
    let again = bob.post_with_key("k", TICKET).await;
    assert_eq!((again.header("idempotency-replayed"), &again.body), ("true", &his.body));
    // The longest name with the longest key fits too.
    let longest = tickets.seller(&"🎫".repeat(200));
    let answer = longest.post_with_key(&"k".repeat(255), TICKET).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
    tickets.holds(4, 4).await;
}

/// Stores a ticket as a replica of the last release without sellers does. Returns its id.
async fn old_ticket(tickets: &Service) -> String {
    tickets
        .one(
            "insert into tickets (id, title, price, version, created_at, updated_at)
             values (gen_random_uuid(), 'Old', 20, 1, now(), now()) returning id::text",
        )
        .await
}

#[tokio::test]
async fn a_ticket_from_before_sellers_has_no_seller_until_the_operator_assigns_one() {
    let tickets = Service::start().await;
    let id = old_ticket(&tickets).await;
    let read = tickets.get(&format!("/api/tickets/{id}")).await;
    assert_eq!((read.status, read.json().get("seller")), (StatusCode::OK, None));
    let refused = tickets.put(&id, "*", FREE).await;
    refused.is_problem(StatusCode::FORBIDDEN);
    assert_eq!(refused.detail(), NOBODYS);

    let adopting = sellers(&settings(Scheme::Hs256), Some("house"));
    let tickets = Service::with_sellers(adopting).await;
    let (id, hers) = (old_ticket(&tickets).await, tickets.post(TICKET).await.id());
    let house = tickets.seller("house");
    house.put(&hers, "*", FREE).await.is_problem(StatusCode::FORBIDDEN);
    tickets.put(&id, "*", FREE).await.is_problem(StatusCode::FORBIDDEN);
    let adopted = house.put(&id, "\"1\"", TICKET).await;
    assert_eq!((adopted.status, &adopted.json()["seller"]), (StatusCode::OK, &json!("house")));
}

#[tokio::test]
async fn with_authentication_off_every_ticket_belongs_to_the_default_seller() {
    let tickets = Service::with_sellers(sellers(&settings(Scheme::Off), None)).await;
    let old = old_ticket(&tickets).await;
    let created = Answer::of(
        tickets
            .anonymous(Method::POST, "/api/tickets")
            .header("content-type", "application/json")
            .body(TICKET),
    )
    .await;
    assert_eq!((created.status, &created.json()["seller"]), (StatusCode::CREATED, &json!("local")));
    for id in [created.id(), old] {
        let changed = tickets.bearer("garbage".to_owned()).put(&id, "*", FREE).await;
        assert_eq!((changed.status, &changed.json()["seller"]), (StatusCode::OK, &json!("local")));
    }
}
