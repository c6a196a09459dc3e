//! Sellers and buyers are authenticated by tokens in both services; unusable settings are rejected.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    buyers::{SECRET, token},
    command::service_with,
    harness::{Service, System, until},
};

async fn ask(
    system: &System,
    name: &str,
    service: &Service,
    method: Method,
    path: &str,
    body: Value,
) -> (StatusCode, Value) {
    let request = system.http.request(method, format!("{}{path}", service.url));
    let request = request.bearer_auth(token(name)).header("if-match", "*").json(&body);
    let answer = request.send().await.unwrap();
    (answer.status(), answer.json().await.unwrap())
}

#[tokio::test]
async fn both_services_know_a_tickets_seller_and_only_the_seller_changes_it() {
    let mut system = System::start().await;
    system.settings = vec![("AUTH", "hs256".to_owned()), ("JWT_KEY", SECRET.to_owned())];
    let (tickets, orders) = (system.tickets().await, system.orders("orders-1").await);
    let concert = json!({ "title": "Concert", "price": 20 });
    let (status, ticket) =
        ask(&system, "sally", &tickets, Method::POST, "/api/tickets", concert.clone()).await;
    assert_eq!((status, &ticket["seller"]), (StatusCode::CREATED, &json!("sally")));

    let path = format!("/api/tickets/{}", ticket["id"].as_str().unwrap());
    let free = json!({ "title": "Concert", "price": 0 });
    let (status, problem) = ask(&system, "bob", &tickets, Method::PUT, &path, free).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{problem}");
    let (status, _) = ask(&system, "sally", &tickets, Method::PUT, &path, concert).await;
    assert_eq!(status, StatusCode::OK);
    until("orders has the seller and the change", || async {
        let (_, copy) = system.ask(&orders, Method::GET, &path, None).await;
        (&copy["seller"], &copy["version"]) == (&json!("sally"), &json!(2))
    })
    .await;
    // An order's hold changes the ticket too, without its seller.
    let wanted = json!({ "ticketId": ticket["id"] });
    let (status, order) = ask(&system, "anna", &orders, Method::POST, "/api/orders", wanted).await;
    assert_eq!((status, &order["buyer"]), (StatusCode::CREATED, &json!("anna")));
    until("the ticket is held, and its seller's", || async {
        let (_, held) = system.ask(&tickets, Method::GET, &path, None).await;
        held["hold"]["orderId"] == order["id"] && held["seller"] == "sally"
    })
    .await;
}

#[tokio::test]
async fn unusable_authentication_settings_exit_64_and_are_named() {
    let pem = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
    let bad: [(&[(&str, &str)], &str); 7] = [
        (&[], "AUTH"),
        (&[("AUTH", "none")], "AUTH"),
        (&[("AUTH", "hs256")], "JWT_KEY"),
        (&[("AUTH", "hs256"), ("JWT_KEY", "short")], "JWT_KEY"),
        (&[("AUTH", "hs256"), ("JWT_KEY", pem)], "JWT_KEY"),
        (&[("AUTH", "oidc"), ("JWT_AUDIENCE", "ticketing")], "JWT_ISSUER"),
        (
            &[
                ("AUTH", "oidc"),
                ("JWT_AUDIENCE", "ticketing"),
                ("JWT_ISSUER", "http://login.example.com"),
            ],
            "JWT_ISSUER",
        ),
    ];
    for (settings, name) in bad {
        for service in ["tickets", "orders"] {
            let (code, said) = service_with(service, settings).await;
            assert_eq!(code, Some(64), "{settings:?}: {said}");
            assert!(said.contains(name), "{settings:?}: {said}");
            assert!(!said.contains("MCowBQYDK2Vw"), "a key is never shown: {said}");
        }
    }
}
