//! Who may act through the console.

use serde_json::{Value, json};

use crate::world::World;

/// POSTs with these headers. Returns the status and the body of the answer.
async fn act(world: &World, path: &str, headers: &[(&str, &str)], body: &Value) -> (u16, Value) {
    let mut request = world.http.post(format!("{}{path}", world.url)).json(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null))
}

fn nothing_in_particular() -> Value {
    json!({ "subject": "nobody:stores", "payload": "" })
}

#[tokio::test]
async fn without_a_token_programs_and_the_consoles_page_may_act_and_other_pages_may_not() {
    let world = World::start().await;
    let publish = "/api/act/publish";
    // 422 means that it may act: there is no stream with this subject.
    let ours = world.url.clone();
    for headers in [vec![], vec![("origin", ours.as_str()), ("sec-fetch-site", "same-origin")]] {
        assert_eq!(
            act(&world, publish, &headers, &nothing_in_particular()).await.0,
            422,
            "{headers:?}"
        );
    }
    let member = world.member("orders-1", "orders-service").await;
    let stream = async_nats::jetstream::stream::Config {
        name: "TICKETS".to_owned(),
        subjects: vec!["ticket:created".to_owned(), "order:created".to_owned()],
        ..Default::default()
    };
    member.bus.jetstream.create_stream(stream).await.unwrap();
    for (subject, payload, status) in [
        ("ticket:created", r#"{"title": "Concert", "price": 20}"#, 200),
        ("ticket:created", r#"{"title": "Concert"}"#, 422),
        ("ticket:created", "no JSON", 422),
        ("order:created", r#"{"title": "Concert", "price": 20}"#, 422),
    ] {
        let made = json!({ "subject": subject, "payload": payload, "as": "ticket" });
        let (answered, said) = act(&world, publish, &[], &made).await;
        assert_eq!(answered, status, "{made}: {said}");
    }
    for headers in [
        vec![("origin", "http://evil.example")],
        vec![("origin", "null")],
        vec![("origin", "http://localhost:3000")],
        vec![("sec-fetch-site", "cross-site")],
        vec![("sec-fetch-site", "same-site"), ("origin", ours.as_str())],
    ] {
        assert_eq!(
            act(&world, publish, &headers, &nothing_in_particular()).await.0,
            403,
            "{headers:?}"
        );
    }
    // A form, and every other type that a page may send without a CORS preflight.
    for kind in ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data"] {
        let sent = world.http.post(format!("{}{publish}", world.url)).header("content-type", kind);
        let status = sent.body(nothing_in_particular().to_string()).send().await.unwrap().status();
        assert_eq!(status, 415, "{kind}");
    }
    let host = [("host", "evil.example")];
    assert_eq!(act(&world, publish, &host, &nothing_in_particular()).await.0, 421);
    let asked = world.http.request(reqwest::Method::OPTIONS, format!("{}{publish}", world.url));
    let asked = asked.header("origin", "http://evil.example").send().await.unwrap();
    assert!(asked.headers().get("access-control-allow-origin").is_none());
}

#[tokio::test]
async fn with_a_token_configured_acting_requires_it_and_watching_does_not() {
    let world = World::start_with(&[("CONSOLE_TOKEN", "the-token")]).await;
    let publish = "/api/act/publish";
    for (given, status) in [
        (None, 401),
        (Some("Bearer another"), 401),
        (Some("the-token"), 401),
        (Some("Bearer the-token"), 422),
    ] {
        let headers: Vec<_> = given.into_iter().map(|given| ("authorization", given)).collect();
        assert_eq!(
            act(&world, publish, &headers, &nothing_in_particular()).await.0,
            status,
            "{given:?}"
        );
    }
    let discard = json!({ "by": "me", "filter": {} });
    for (given, status) in [("Bearer another", 401), ("Bearer the-token", 502)] {
        let path = "/api/act/operations/orders/discard";
        let (answered, _) = act(&world, path, &[("authorization", given)], &discard).await;
        assert_eq!(answered, status, "with the token, 502: there is no such service");
    }
    let snapshot = world.until("there is a snapshot", "/api/snapshot", |_| true).await;
    assert_eq!((&snapshot["rights"], &snapshot["breakable"]), (&json!("token"), &json!(false)));
    assert!(!snapshot.to_string().contains("the-token"));
    let broken = json!({ "how": "kill", "what": "nats" });
    let token = [("authorization", "Bearer the-token")];
    assert_eq!(act(&world, "/api/act/break", &token, &broken).await.0, 403);
}
