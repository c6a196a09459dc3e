//! `PUT /api/tickets/{id}`: a change names the version that it is based on, and of several changes
//! based on one version one wins.

use axum::http::StatusCode;
use futures::future::join_all;
use serde_json::{Value, json};

use crate::service::{Answer, Service};

#[tokio::test]
async fn a_put_makes_a_new_version_and_publishes_it() {
    let tickets = Service::start().await;
    let first = tickets.post(r#"{"title":"Concert","price":20.5}"#).await;
    let id = first.id();
    let second = tickets.put(&id, "\"1\"", r#"{"title":"Opera","price":30}"#).await;
    assert_eq!((second.status, second.header("etag")), (StatusCode::OK, "\"2\""));
    let ticket = second.json();
    assert_eq!((&ticket["title"], &ticket["version"]), (&json!("Opera"), &json!(2)));
    assert_eq!(ticket["createdAt"], first.json()["createdAt"]);

    let by_body = tickets.put(&id, "", r#"{"title":"Opera","price":30,"version":2}"#).await;
    assert_eq!((by_body.status, by_body.header("etag")), (StatusCode::OK, "\"3\""));
    let of_several = tickets.put(&id, "\"7\", \"3\"", r#"{"title":"Opera","price":30}"#).await;
    assert_eq!((of_several.status, of_several.header("etag")), (StatusCode::OK, "\"4\""));
    let any = tickets.put(&id, "*", r#"{"title":"Opera","price":31}"#).await;
    assert_eq!((any.status, any.header("etag")), (StatusCode::OK, "\"5\""));
    assert_eq!(tickets.get(&format!("/api/tickets/{id}")).await.body, any.body);

    let event: Value = tickets
        .one("select envelope::jsonb #- '{data,created_at}' #- '{data,updated_at}' from bus.log where subject = 'ticket:updated' order by position desc limit 1")
        .await;
    assert_eq!((&event["type"], &event["data"]), (&json!("ticket:updated"), &any.json()));
    tickets.holds(1, 5).await;
}

#[tokio::test]
async fn an_invalid_put_is_refused_and_changes_nothing() {
    let tickets = Service::start().await;
    let id = tickets.post(r#"{"title":"Concert","price":20.5}"#).await.id();
    let good = r#"{"title":"Opera","price":30}"#;
    let at_one = r#"{"title":"Opera","price":30,"version":1}"#;
    let at_two = r#"{"title":"Opera","price":30,"version":2}"#;
    let unknown = "01936b2e-7c00-7000-8000-000000000001";
    for (id, if_match, body, status, detail) in [
        (&*id, "\"2\"", good, 412, "The ticket is now at version 1; nothing was changed."),
        (&id, "W/\"1\"", good, 412, "The ticket is now at version 1; nothing was changed."),
        (&id, "\"other\"", good, 412, "The ticket is now at version 1; nothing was changed."),
        (&id, "", at_two, 412, "The ticket is now at version 1; nothing was changed."),
        (&id, "*", at_two, 412, "The ticket is now at version 1; nothing was changed."),
        (
            &id,
            "",
            good,
            428,
            "Specify the version that the change is based on, in If-Match or as version in the body.",
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
async fn of_concurrent_puts_based_on_one_version_exactly_one_wins() {
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
