//! The answers' headers for caches and browsers.

use axum::http::HeaderValue;
use common::pod::http::{MiddlewareSettings, server::Bounds};

use crate::{client::Client, service::Service};

#[tokio::test]
async fn a_get_of_an_unchanged_resource_is_answered_304() {
    let service = Service::start();
    let mut client = service.client().await;
    let first = client.get("/things/1", "").await;
    let tag = first.header("etag").to_owned();
    assert!(tag.starts_with("W/\"") && tag.len() == 36, "{tag}");
    assert_eq!(first.header("cache-control"), "private, no-cache");
    for known in
        [tag.clone(), format!("\"a\", {tag}"), tag.trim_start_matches("W/").into(), "*".into()]
    {
        let again = client.get("/things/1", &format!("if-none-match: {known}\r\n")).await;
        assert_eq!((again.status, again.header("etag")), (304, &*tag), "{known}");
        assert_eq!(again.header("content-type"), "");
    }
    for other in ["\"a\"", "a", "W/"] {
        let anew = client.get("/things/1", &format!("if-none-match: {other}\r\n")).await;
        assert_eq!((anew.status, &anew.body), (200, &first.body), "{other}");
    }
    assert_eq!(client.get("/nothing", "if-none-match: *\r\n").await.status, 404);
}

async fn preflight(client: &mut Client, origin: &str) -> (u16, String) {
    let head = format!(
        "OPTIONS /things HTTP/1.1\r\nhost: a\r\norigin: {origin}\r\n\
         access-control-request-method: POST\r\n\
         access-control-request-headers: content-type,idempotency-key\r\n\r\n"
    );
    client.send(head).await;
    let answer = client.answer().await;
    (answer.status, answer.header("access-control-allow-origin").to_owned())
}

#[tokio::test]
async fn only_pages_of_the_configured_origins_may_use_the_api() {
    let front = "https://tickets.example.com";
    let none = Service::start();
    assert_eq!(preflight(&mut none.client().await, front).await, (405, String::new()));

    let origins = vec![HeaderValue::from_static("https://tickets.example.com")];
    let settings = MiddlewareSettings { origins, ..MiddlewareSettings::default() };
    let service = Service::with(&settings, Bounds::default());
    let mut client = service.client().await;
    assert_eq!(preflight(&mut client, front).await, (200, front.to_owned()));
    assert_eq!(preflight(&mut client, "https://evil.example.com").await, (200, String::new()));
    // Errors too, or a page could not tell what was wrong.
    for path in ["/things/1", "/nothing"] {
        let answer = client.get(path, &format!("origin: {front}\r\n")).await;
        assert_eq!(answer.header("access-control-allow-origin"), front);
        assert!(answer.header("access-control-expose-headers").contains("etag"));
        assert!(answer.header("vary").contains("origin"));
    }
}
