//! The HTTP contract of `tickets`, request by request, against a real Postgres.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod contract;
mod sellers;
mod service;

use axum::http::StatusCode;
use common::pod::{idempotency, shutdown::Shutdown};
use futures::future::join_all;
use reqwest::{Method, header};
use serde_json::{Value, json};
use service::{Answer, Service};
use sqlx::Connection;

/// Two transactions wait for a lock. Other tests have databases of their own on the same server.
const TWO_WAIT: &str =
    "select count(*) = 2 from pg_locks join pg_database on database = pg_database.oid
     where datname = current_database() and not granted";
/// A transaction has claimed an Idempotency-Key.
const A_KEY_IS_CLAIMED: &str =
    "select count(*) = 1 from pg_locks join pg_database on database = pg_database.oid
     where datname = current_database() and locktype = 'advisory' and granted";

#[tokio::test]
async fn a_post_is_answered_with_the_ticket_and_where_it_is() {
    let tickets = Service::start().await;
    let answer = tickets.post(r#"{"title":"  Konzert für zwei ","price":20.5}"#).await;

    assert_eq!(answer.status, StatusCode::CREATED);
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("etag"), "\"1\"");
    let ticket = answer.json();
    assert_eq!(ticket["title"], "Konzert für zwei");
    assert!(answer.body.contains(r#""price":20.50,"version":1,"#), "{}", answer.body);
    assert_eq!(ticket["created_at"], ticket["updated_at"]);

    let path = answer.header("location").to_owned();
    assert_eq!(path, format!("/api/tickets/{}", ticket["id"].as_str().unwrap()));
    let read = tickets.get(&path).await;
    assert_eq!((read.status, read.body), (StatusCode::OK, answer.body));
}

#[tokio::test]
async fn the_price_that_was_posted_is_exact_everywhere() {
    let tickets = Service::start().await;
    for (given, kept) in [
        ("0", "0.00"),
        ("0.1", "0.10"),
        ("0.29", "0.29"),
        ("999999.99", "999999.99"),
        ("1e6", "1000000.00"),
    ] {
        let answer = tickets.post(&format!(r#"{{"title":"a","price":{given}}}"#)).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
        let id = answer.id();
        let kept = format!(r#""price":{kept},"#);
        let event: String = tickets
            .one(&format!("select envelope from bus.log where envelope like '%/tickets%{id}%'"))
            .await;
        let read = tickets.get(&format!("/api/tickets/{id}")).await.body;
        for text in [&answer.body, &read, &event] {
            assert!(text.contains(&kept), "{text}");
        }
    }
}

#[tokio::test]
async fn a_post_that_is_not_a_ticket_is_refused_by_the_names_of_its_fields() {
    let tickets = Service::start().await;
    let long = json!({ "title": "é".repeat(201), "price": 1 }).to_string();
    let unprocessable: [(&str, &[(&str, &str)]); 17] = [
        ("{}", &[("title", "is required"), ("price", "is required")]),
        (r#"{"title":"a"}"#, &[("price", "is required")]),
        (r#"{"title":"","price":1}"#, &[("title", "must have at least one visible character")]),
        (
            r#"{"title":" \u3000\t","price":1}"#,
            &[("title", "must have at least one visible character")],
        ),
        (
            r#"{"title":"\u200b","price":1}"#,
            &[("title", "must have at least one visible character")],
        ),
        (&long, &[("title", "must have at most 200 characters, has 201")]),
        (
            r#"{"title":"a\u0000b","price":1}"#,
            &[("title", "must not hold control characters or line breaks, holds U+0000")],
        ),
        (
            r#"{"title":"a\u202eb","price":1}"#,
            &[(
                "title",
                "must not hold characters that change the direction of text, holds U+202E",
            )],
        ),
        (r#"{"title":7,"price":1}"#, &[("title", "invalid type: integer `7`, expected a string")]),
        (r#"{"title":null,"price":1}"#, &[("title", "invalid type: null, expected a string")]),
        (r#"{"title":"a","price":-0.01}"#, &[("price", "must not be negative")]),
        (r#"{"title":"a","price":1.005}"#, &[("price", "must have at most two decimals")]),
        (r#"{"title":"a","price":1000000.01}"#, &[("price", "must be at most 1000000.00")]),
        (r#"{"title":"a","price":1e400}"#, &[("price", "must be at most 1000000.00")]),
        (r#"{"title":"a","price":"20"}"#, &[("price", "must be a decimal number")]),
        (r#"{"title":"a","price":null}"#, &[("price", "must be a decimal number")]),
        (
            r#"{"title":"","price":-1,"id":"x","seat":1}"#,
            &[
                ("title", "must have at least one visible character"),
                ("price", "must not be negative"),
                ("id", "is not a field of this request"),
                ("seat", "is not a field of this request"),
            ],
        ),
    ];
    for (body, errors) in unprocessable {
        let answer = tickets.post(body).await;
        answer.refuses(StatusCode::UNPROCESSABLE_ENTITY, errors);
    }
    for body in ["", "hello", "[]", "null", "\"a\"", "{\"title\":\"a\",", "{\"title\":\"\u{1}\"}"] {
        let answer = tickets.post(body).await;
        answer.is_problem(StatusCode::BAD_REQUEST);
        assert!(answer.detail().starts_with("The body is not a JSON object: "), "{}", answer.body);
    }
    tickets.holds(0, 0).await;
}

#[tokio::test]
async fn what_no_handler_takes_is_refused_by_its_status() {
    let tickets = Service::start().await;
    let large = json!({ "title": "a".repeat(16 * 1024), "price": 1 }).to_string();
    let answer = tickets.post(&large).await;
    answer.is_problem(StatusCode::PAYLOAD_TOO_LARGE);

    for content_type in [None, Some("text/plain"), Some("application/x-www-form-urlencoded")] {
        let mut request = tickets.request(Method::POST, "/api/tickets").body("{}");
        if let Some(content_type) = content_type {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        let answer = Answer::of(request).await;
        answer.is_problem(StatusCode::UNSUPPORTED_MEDIA_TYPE);
        assert_eq!(answer.detail(), "The body must be sent with Content-Type: application/json.");
    }

    let answer = Answer::of(tickets.request(Method::DELETE, "/api/tickets")).await;
    answer.is_problem(StatusCode::METHOD_NOT_ALLOWED);
    for method in ["GET", "HEAD", "POST"] {
        assert!(answer.header("allow").contains(method), "{}", answer.header("allow"));
    }
    tickets.get("/api/orders").await.is_problem(StatusCode::NOT_FOUND);
    tickets.holds(0, 0).await;
}

#[tokio::test]
async fn every_answer_has_its_request_id_its_trace_and_the_security_headers() {
    let tickets = Service::start().await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let created = Answer::of(
        tickets
            .posting(r#"{"title":"a","price":1}"#)
            .header("x-request-id", "mine-1")
            .header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01")),
    )
    .await;
    assert_eq!(created.header("x-request-id"), "mine-1");
    assert!(created.header("traceparent").starts_with(&format!("00-{trace}-")));
    let event: String = tickets.one("select envelope from bus.log").await;
    let event: Value = serde_json::from_str(&event).unwrap();
    assert!(event["traceparent"].as_str().unwrap().starts_with(&format!("00-{trace}-")));

    for answer in [created, tickets.get("/api/tickets/x").await, tickets.get("/nothing").await] {
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("x-frame-options"), "DENY");
        assert_eq!(answer.header("referrer-policy"), "no-referrer");
        assert!(answer.header("content-security-policy").starts_with("default-src 'none'"));
        assert!(!answer.header("x-request-id").is_empty());
        assert_eq!(answer.header("traceparent").len(), 55);
    }
}

#[tokio::test]
async fn each_committed_ticket_has_exactly_one_event_with_the_same_state() {
    let tickets = Service::start().await;
    let bodies: Vec<String> =
        (0..20).map(|n| format!(r#"{{"title":"t{n}","price":{n}}}"#)).collect();
    let answers = join_all(bodies.iter().map(|body| tickets.post(body))).await;
    tickets.holds(20, 20).await;
    for answer in answers {
        let event: Value = tickets
            .one(&format!(
                "select envelope::jsonb from bus.log
                 where subject = 'ticket:created' and envelope::jsonb ->> 'subject' = '{}'",
                answer.id()
            ))
            .await;
        assert_eq!(event["data"], answer.json());
        assert_eq!(event["type"], "ticket:created");
    }
}

#[tokio::test]
async fn a_ticket_whose_event_cannot_be_stored_is_not_stored_and_the_answer_hides_why() {
    let tickets = Service::start().await;
    tickets.execute("alter table bus.log rename to away").await;
    let keyed =
        Answer::of(tickets.posting(r#"{"title":"a","price":1}"#).header("idempotency-key", "k"))
            .await;
    for answer in [tickets.post(r#"{"title":"a","price":1}"#).await, keyed] {
        answer.is_problem(StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(answer.detail(), "The service failed; its log says why.");
    }
    tickets.execute("alter table bus.away rename to log").await;
    tickets.holds(0, 0).await;
    assert_eq!(tickets.one::<i64>("select count(*) from bus.idempotency_keys").await, 0);
}

#[tokio::test]
async fn a_database_that_is_away_is_answered_503_with_retry_after() {
    let tickets = Service::without_database().await;
    for answer in
        [tickets.post(r#"{"title":"a","price":1}"#).await, tickets.get("/api/tickets").await]
    {
        answer.is_problem(StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.header("retry-after"), "1");
        assert!(answer.detail().starts_with("The service cannot reach its database."));
    }
}

#[tokio::test]
async fn a_repetition_with_the_same_key_gets_the_first_answer_and_makes_no_second_ticket() {
    let tickets = Service::start().await;
    let first = tickets
        .post_with_key("k 1".replace(' ', "-").as_str(), r#"{"title":"Concert","price":20.5}"#)
        .await;
    assert_eq!(first.status, StatusCode::CREATED);
    assert!(first.headers.get("idempotency-replayed").is_none());
    // What happens to the ticket later does not change what the POST was answered.
    tickets.put(&first.id(), "*", r#"{"title":"Changed","price":1}"#).await;

    for same in
        [r#"{"title":"Concert","price":20.5}"#, r#"{ "price": 20.50, "title": " Concert " }"#]
    {
        let again = tickets.post_with_key("k-1", same).await;
        assert_eq!((again.status, &again.body), (StatusCode::CREATED, &first.body));
        assert_eq!(again.header("location"), first.header("location"));
        assert_eq!(again.header("etag"), "\"1\"");
        assert_eq!(again.header("idempotency-replayed"), "true");
    }
    tickets.holds(1, 2).await;
}

#[tokio::test]
async fn a_key_that_came_with_another_request_is_refused() {
    let tickets = Service::start().await;
    tickets.post_with_key("k", r#"{"title":"Concert","price":20.5}"#).await;
    for other in [r#"{"title":"Concert","price":20.51}"#, r#"{"title":"concert","price":20.5}"#] {
        let answer = tickets.post_with_key("k", other).await;
        answer.is_problem(StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(answer.detail(), "This Idempotency-Key came before with another request.");
    }
    tickets.holds(1, 1).await;
}

#[tokio::test]
async fn a_request_that_was_refused_does_not_spend_its_key() {
    let tickets = Service::start().await;
    let refused = tickets.post_with_key("k", r#"{"title":"","price":20.5}"#).await;
    refused.is_problem(StatusCode::UNPROCESSABLE_ENTITY);
    let mended = tickets.post_with_key("k", r#"{"title":"Concert","price":20.5}"#).await;
    assert_eq!(mended.status, StatusCode::CREATED);
}

#[tokio::test]
async fn a_key_whose_first_request_is_under_way_is_answered_409() {
    let tickets = Service::start().await;
    let body = r#"{"title":"Concert","price":20.5}"#;
    let lock = tickets.lock_tickets().await;
    let (first, ()) = tokio::join!(tickets.post_with_key("k", body), async {
        tickets.until(A_KEY_IS_CLAIMED).await;
        let second = tickets.post_with_key("k", body).await;
        second.is_problem(StatusCode::CONFLICT);
        assert!(second.detail().contains("still under way"), "{}", second.body);
        lock.close().await.unwrap();
    });
    assert_eq!(first.status, StatusCode::CREATED);
    let third = tickets.post_with_key("k", body).await;
    assert_eq!((third.status, third.body), (StatusCode::CREATED, first.body));
    tickets.holds(1, 1).await;
}

#[tokio::test]
async fn of_many_requests_with_one_key_at_once_one_makes_the_ticket() {
    let tickets = Service::start().await;
    let body = r#"{"title":"Concert","price":20.5}"#;
    let answers = join_all((0..20).map(|_| tickets.post_with_key("k", body))).await;
    let mut made = std::collections::BTreeSet::new();
    for answer in answers {
        match answer.status {
            StatusCode::CREATED => drop(made.insert(answer.body)),
            status => assert_eq!(status, StatusCode::CONFLICT),
        }
    }
    assert_eq!(made.len(), 1);
    tickets.holds(1, 1).await;
}

#[tokio::test]
async fn a_malformed_key_is_refused() {
    let tickets = Service::start().await;
    for key in ["", "a b", "é", "a\tb", &"k".repeat(256)] {
        let answer = tickets.post_with_key(key, r#"{"title":"a","price":1}"#).await;
        let fields = [("Idempotency-Key", "must be 1-255 visible ASCII characters")];
        answer.refuses(StatusCode::BAD_REQUEST, &fields);
    }
    let twice = tickets.posting(r#"{"title":"a","price":1}"#);
    let twice =
        Answer::of(twice.header("idempotency-key", "a").header("idempotency-key", "b")).await;
    twice.is_problem(StatusCode::BAD_REQUEST);
    tickets.holds(0, 0).await;
    let longest = tickets.post_with_key(&"~".repeat(255), r#"{"title":"a","price":1}"#).await;
    assert_eq!(longest.status, StatusCode::CREATED);
}

#[tokio::test]
async fn a_key_that_the_release_before_has_kept_is_known() {
    let tickets = Service::start().await;
    // Its statement, while replicas of both releases run.
    tickets
        .execute(
            "insert into idempotency_keys (key, request_hash, ticket_id, answer)
             values ('k', sha256('Concert\\00020.50'::bytea), gen_random_uuid(), '{}')",
        )
        .await;
    let again = tickets.post_with_key("k", r#"{"title":"Concert","price":20.5}"#).await;
    assert_eq!((again.status, &*again.body), (StatusCode::CREATED, "{}"));
    // Of another request nothing is known: nobody knows whose it was.
    let other = tickets.post_with_key("k", r#"{"title":"Concert","price":21}"#).await;
    assert_eq!(other.status, StatusCode::CREATED, "{}", other.body);
    tickets.execute("delete from idempotency_keys").await;
    let anew = tickets.post_with_key("k", r#"{"title":"Concert","price":20.5}"#).await;
    assert!(anew.headers.get("idempotency-replayed").is_none());
    let kept: String = tickets.one("select answer from idempotency_keys").await;
    assert_eq!(kept, anew.body);
}

#[tokio::test]
async fn a_key_is_forgotten_after_its_time_and_not_before() {
    let tickets = Service::start().await;
    let body = r#"{"title":"Concert","price":20.5}"#;
    for key in ["a", "b", "c"] {
        tickets.post_with_key(key, body).await;
    }
    tickets.execute("update bus.idempotency_keys set created_at = created_at - interval '25 h' where key <> 'sally c'").await;
    let (shutdown, _reason) = Shutdown::new();
    tokio::spawn(idempotency::prune(tickets.pool.clone().into(), shutdown.clone()));
    tickets.until("select count(*) < 3 from bus.idempotency_keys").await;
    shutdown.begin();
    assert_eq!(
        tickets.one::<String>("select string_agg(key, '') from bus.idempotency_keys").await,
        "sally c"
    );
}

#[tokio::test]
async fn a_put_makes_a_new_version_and_tells_of_it() {
    let tickets = Service::start().await;
    let first = tickets.post(r#"{"title":"Concert","price":20.5}"#).await;
    let id = first.id();
    let second = tickets.put(&id, "\"1\"", r#"{"title":"Opera","price":30}"#).await;
    assert_eq!((second.status, second.header("etag")), (StatusCode::OK, "\"2\""));
    let ticket = second.json();
    assert_eq!((&ticket["title"], &ticket["version"]), (&json!("Opera"), &json!(2)));
    assert_eq!(ticket["created_at"], first.json()["created_at"]);

    let by_body = tickets.put(&id, "", r#"{"title":"Opera","price":30,"version":2}"#).await;
    assert_eq!((by_body.status, by_body.header("etag")), (StatusCode::OK, "\"3\""));
    let of_several = tickets.put(&id, "\"7\", \"3\"", r#"{"title":"Opera","price":30}"#).await;
    assert_eq!((of_several.status, of_several.header("etag")), (StatusCode::OK, "\"4\""));
    let any = tickets.put(&id, "*", r#"{"title":"Opera","price":31}"#).await;
    assert_eq!((any.status, any.header("etag")), (StatusCode::OK, "\"5\""));
    assert_eq!(tickets.get(&format!("/api/tickets/{id}")).await.body, any.body);

    let event: Value = tickets
        .one("select envelope::jsonb from bus.log where subject = 'ticket:updated' order by position desc limit 1")
        .await;
    assert_eq!((&event["type"], &event["data"]), (&json!("ticket:updated"), &any.json()));
    tickets.holds(1, 5).await;
}

#[tokio::test]
async fn a_put_that_cannot_be_made_is_refused_and_changes_nothing() {
    let tickets = Service::start().await;
    let id = tickets.post(r#"{"title":"Concert","price":20.5}"#).await.id();
    let good = r#"{"title":"Opera","price":30}"#;
    let at_one = r#"{"title":"Opera","price":30,"version":1}"#;
    let at_two = r#"{"title":"Opera","price":30,"version":2}"#;
    let unknown = "01936b2e-7c00-7000-8000-000000000001";
    for (id, if_match, body, status, detail) in [
        (&*id, "\"2\"", good, 412, "The ticket has version 1 by now; nothing was changed."),
        (&id, "W/\"1\"", good, 412, "The ticket has version 1 by now; nothing was changed."),
        (&id, "\"other\"", good, 412, "The ticket has version 1 by now; nothing was changed."),
        (&id, "", at_two, 412, "The ticket has version 1 by now; nothing was changed."),
        (&id, "*", at_two, 412, "The ticket has version 1 by now; nothing was changed."),
        (
            &id,
            "",
            good,
            428,
            "Say which version the change was made from: as If-Match, or as version in the body.",
        ),
        (&id, "\"1\"", at_two, 400, "If-Match and version name different versions."),
        (&id, "1", good, 400, "If-Match must be * or versions in quotes, such as \"1\""),
        (&id, "\"1\" \"2\"", good, 400, "If-Match must be * or versions in quotes, such as \"1\""),
        (&id, "\"1\"", r#"{"title":"Opera"}"#, 422, "price is required"),
        (&id, "\"1\"", r#"{"price":30}"#, 422, "title is required"),
        (
            &id,
            "\"1\"",
            r#"{"title":"","price":-1,"version":0,"seat":1}"#,
            422,
            "title must have at least one visible character; \
             price must not be negative; version must be at least 1; \
             seat is not a field of this request",
        ),
        (
            &id,
            "",
            r#"{"title":"a","price":1,"version":"1"}"#,
            422,
            "version invalid type: string \"1\", expected i32",
        ),
        (unknown, "*", good, 404, "There is no ticket with this id."),
        (unknown, "", at_one, 404, "There is no ticket with this id."),
        ("7", "*", good, 400, "id must be a UUID, such as 01936b2e-7c00-7000-8000-000000000001"),
    ] {
        let answer = tickets.put(id, if_match, body).await;
        answer.is_problem(StatusCode::from_u16(status).unwrap());
        assert_eq!(answer.detail(), detail, "{if_match} {body}");
    }
    assert_eq!(tickets.get(&format!("/api/tickets/{id}")).await.json()["title"], "Concert");
    tickets.holds(1, 1).await;
}

#[tokio::test]
async fn of_many_puts_from_one_version_at_once_exactly_one_wins() {
    let tickets = Service::start().await;
    let id = tickets.post(r#"{"title":"Concert","price":20.5}"#).await.id();
    for round in 1..=5 {
        let puts = (0..10).map(|n| {
            let (tickets, id) = (&tickets, &id);
            async move {
                let body = format!(r#"{{"title":"by {n}","price":{n}}}"#);
                tickets.put(id, &format!("\"{round}\""), &body).await
            }
        });
        let answers = join_all(puts).await;
        let won: Vec<&Answer> =
            answers.iter().filter(|answer| answer.status == StatusCode::OK).collect();
        assert_eq!(won.len(), 1);
        assert_eq!(won[0].header("etag"), format!("\"{}\"", round + 1));
        let stale =
            answers.iter().filter(|answer| answer.status == StatusCode::PRECONDITION_FAILED);
        assert_eq!(stale.count(), 9);
    }
    tickets.holds(1, 6).await;
}

#[tokio::test]
async fn a_ticket_that_the_client_has_is_not_sent_again() {
    let tickets = Service::start().await;
    let id = tickets.post(r#"{"title":"Concert","price":20.5}"#).await.id();
    let path = format!("/api/tickets/{id}");
    let conditional = |tags: &str| {
        Answer::of(tickets.request(Method::GET, &path).header(header::IF_NONE_MATCH, tags))
    };
    for tags in ["\"1\"", "W/\"1\"", "\"7\", \"1\"", "*"] {
        let answer = conditional(tags).await;
        assert_eq!((answer.status, &*answer.body), (StatusCode::NOT_MODIFIED, ""), "{tags}");
        assert_eq!(answer.header("etag"), "\"1\"");
    }
    let newer = conditional("\"2\"").await;
    assert_eq!(
        (newer.status, newer.header("cache-control")),
        (StatusCode::OK, "private, no-cache")
    );
    conditional("1").await.is_problem(StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_ticket_that_is_not_there_is_answered_404_and_an_id_that_is_none_400() {
    let tickets = Service::start().await;
    let absent = tickets.get("/api/tickets/01936b2e-7c00-7000-8000-000000000001").await;
    absent.is_problem(StatusCode::NOT_FOUND);
    for id in ["7", "01936b2e7c0070008000000000000001", "%00", "%ff", "a%2Fb"] {
        let answer = tickets.get(&format!("/api/tickets/{id}")).await;
        answer.is_problem(StatusCode::BAD_REQUEST);
        assert_eq!(answer.errors()[0].0, "id", "{id}");
    }
}

#[tokio::test]
async fn pages_show_each_ticket_once_newest_first_whatever_is_created_meanwhile() {
    let tickets = Service::start().await;
    let mut ids = Vec::new();
    for n in 0..7 {
        ids.push(tickets.post(&format!(r#"{{"title":"t{n}","price":{n}}}"#)).await.id());
    }
    ids.reverse();
    let (mut seen, mut path) = (Vec::new(), "/api/tickets?limit=3".to_owned());
    let mut sizes = Vec::new();
    loop {
        let page = tickets.get(&path).await.json();
        let rows = page["tickets"].as_array().unwrap();
        sizes.push(rows.len());
        seen.extend(rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()));
        tickets.post(r#"{"title":"meanwhile","price":1}"#).await;
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/tickets?limit=3&after={next}");
    }
    assert_eq!((seen, sizes), (ids, vec![3, 3, 1]));
}

#[tokio::test]
async fn a_full_last_page_has_no_next_and_an_empty_list_is_a_page() {
    let tickets = Service::start().await;
    assert_eq!(tickets.get("/api/tickets").await.body, r#"{"tickets":[],"next":null}"#);
    for _ in 0..21 {
        tickets.post(r#"{"title":"a","price":1}"#).await;
    }
    let exactly = tickets.get("/api/tickets?limit=21").await.json();
    assert_eq!(
        (exactly["tickets"].as_array().unwrap().len(), &exactly["next"]),
        (21, &Value::Null)
    );
    let default = tickets.get("/api/tickets").await.json();
    assert_eq!(default["tickets"].as_array().unwrap().len(), 20);
    assert!(default["next"].is_string());
}

#[tokio::test]
async fn a_page_that_cannot_be_is_refused_by_the_parameters_name() {
    let tickets = Service::start().await;
    let limit = "must be a whole number from 1 to 100";
    let after = "must be the next of an earlier page";
    for (query, field, message) in [
        ("limit=0", "limit", limit),
        ("limit=101", "limit", limit),
        ("limit=", "limit", limit),
        ("limit=%2B5", "limit", limit),
        ("limit=1.5", "limit", limit),
        ("limit=99999999999999999999", "limit", limit),
        ("after=", "after", after),
        ("after=7", "after", after),
        ("after=01936b2e-7c00-7000-8000-000000000001", "after", after),
        ("limit=5&limit=5", "limit", "must be given once"),
        ("page=2", "page", "is not a parameter of this request"),
    ] {
        let answer = tickets.get(&format!("/api/tickets?{query}")).await;
        answer.refuses(StatusCode::UNPROCESSABLE_ENTITY, &[(field, message)]);
    }
    let all = tickets.get("/api/tickets?limit=0&after=7&page=2").await;
    assert_eq!(all.errors().len(), 3, "{}", all.body);
}

#[tokio::test]
async fn a_request_above_the_bound_is_turned_away_at_once_and_those_within_it_finish() {
    let tickets = Service::with_concurrency(2).await;
    let lock = tickets.lock_tickets().await;
    let body = r#"{"title":"a","price":1}"#;
    // With a key each has its own transaction, which can be seen to wait.
    let (first, second) = (tickets.post_with_key("1", body), tickets.post_with_key("2", body));
    let (first, second, ()) = tokio::join!(first, second, async {
        tickets.until(TWO_WAIT).await;
        let third = tickets.post(body).await;
        third.is_problem(StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(third.header("retry-after"), "1");
        assert_eq!(third.detail(), "Too many requests are under way. Try again.");
        lock.close().await.unwrap();
    });
    assert_eq!([first.status, second.status], [StatusCode::CREATED; 2]);
    assert_eq!(tickets.post(body).await.status, StatusCode::CREATED);
    tickets.holds(3, 3).await;
}

#[tokio::test]
async fn a_statement_that_waits_too_long_is_given_up_and_leaves_nothing() {
    let tickets = Service::start().await;
    let lock = tickets.lock_tickets().await;
    let answer = tickets.post(r#"{"title":"a","price":1}"#).await;
    answer.is_problem(StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.header("retry-after"), "1");
    lock.close().await.unwrap();
    tickets.holds(0, 0).await;
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_given_up_and_leaves_nothing() {
    let tickets = Service::patient().await;
    let lock = tickets.lock_tickets().await;
    let answer = tickets.post_with_key("k", r#"{"title":"a","price":1}"#).await;
    answer.is_problem(StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.header("retry-after"), "1");
    assert!(answer.detail().contains("Whether the request took effect is not known"));
    lock.close().await.unwrap();
    tickets.until("select count(*) = 0 from pg_locks where relation = 'tickets'::regclass").await;
    tickets.holds(0, 0).await;
}

#[tokio::test]
async fn the_description_has_every_route_with_its_refusals() {
    let tickets = Service::without_database().await;
    let answer = tickets.get("/openapi.json").await;
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (StatusCode::OK, "application/json")
    );
    let description = answer.json();
    let statuses = |path: &str, method: &str| {
        let responses = description["paths"][path][method]["responses"].as_object().unwrap();
        responses.keys().map(|status| status.parse().unwrap()).collect::<Vec<u16>>()
    };
    let one = "/api/tickets/{id}";
    assert_eq!(
        statuses("/api/tickets", "post"),
        [201, 400, 401, 408, 409, 413, 414, 415, 422, 431, 500, 503]
    );
    assert_eq!(statuses("/api/tickets", "get"), [200, 304, 408, 414, 422, 431, 500, 503]);
    assert_eq!(statuses(one, "get"), [200, 304, 400, 404, 408, 414, 431, 500, 503]);
    assert_eq!(
        statuses(one, "put"),
        [200, 400, 401, 403, 404, 408, 409, 412, 413, 414, 415, 422, 428, 431, 500, 503]
    );
    assert_eq!(description["paths"].as_object().unwrap().len(), 2);

    let schemas = &description["components"]["schemas"];
    let price = &schemas["Price"];
    assert_eq!(
        (&price["minimum"], &price["maximum"], &price["multipleOf"]),
        (&json!(0), &json!(1_000_000), &json!(0.01))
    );
    assert_eq!(schemas["Title"]["maxLength"], 200);
    assert_eq!(schemas["NewTicket"]["additionalProperties"], false);
    assert_eq!(schemas["ChangedTicket"]["additionalProperties"], false);
}

#[tokio::test]
async fn the_page_for_people_loads_nothing_from_elsewhere() {
    let tickets = Service::without_database().await;
    let page = tickets.get("/docs/").await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.header("content-type").starts_with("text/html"));
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
    assert!(!policy.contains("http"), "{policy}");

    let mut resources = 0;
    for attribute in ["src=\"", "href=\""] {
        for rest in page.body.split(attribute).skip(1) {
            let file = rest.split('"').next().unwrap();
            assert!(!file.contains("//"), "{file}");
            let answer = tickets.get(&format!("/docs/{}", file.trim_start_matches("./"))).await;
            assert_eq!(answer.status, StatusCode::OK, "{file}");
            resources += 1;
        }
    }
    assert!(resources > 3, "{}", page.body);
    let start = tickets.get("/docs/swagger-initializer.js").await.body;
    assert!(start.contains("/openapi.json") && !start.contains("://"), "{start}");
    // The online validator's badge would be an image from elsewhere.
    assert!(start.contains(r#""validatorUrl": "none""#), "{start}");
}

#[test]
fn the_word_provision_makes_the_program_its_own_provisioner() {
    let run = |arguments: &[&str]| {
        let program = env!("CARGO_BIN_EXE_tickets");
        let ran = std::process::Command::new(program).args(arguments).env_clear().output().unwrap();
        (ran.status.code(), String::from_utf8(ran.stdout).unwrap())
    };
    let (status, help) = run(&["provision", "--help"]);
    assert_eq!(status, Some(0));
    assert!(help.contains("NATS_SEED_FILE") && !help.contains("DATABASE_URL"), "{help}");
    // Its settings are checked as the service's are.
    assert_eq!(run(&["provision", "--nats-replicas", "9"]).0, Some(64));
    assert!(run(&["--help"]).1.contains("tickets provision"));
}
