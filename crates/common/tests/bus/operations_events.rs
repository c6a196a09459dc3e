//! The operations API reports where each event is, and its outcome.

use reqwest::StatusCode;
use serde_json::{Value, json};
use testkit::Answer;

use crate::{member::until, operations::Service};

#[tokio::test]
async fn an_events_outcome_is_reported_with_its_member_its_attempts_and_its_last_error() {
    let service = Service::start().await;
    let known = async |id: &str| {
        let url = format!("{}/operations/events/received", service.operations);
        let answer = Answer::of(service.http.post(url).json(&json!({ "ids": [id] }))).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        answer.json()["received"][0].clone()
    };
    let fine = service.world.publish("fine").await.to_string();
    until("it took effect", async || known(&fine).await["appliedBy"] == "notifications-1").await;
    let told = known(&fine).await;
    assert_eq!(
        (&told["attempts"], &told["queueGroup"]),
        (&Value::Null, &json!("notifications-service"))
    );
    assert!(told["appliedAt"].is_string() && told["deadLetter"].is_null());
    assert!(told["deliveredAt"].as_str() < told["appliedAt"].as_str(), "{told:#}");

    let refuse = "alter table notifications add constraint fault check (text not like '%refused%')";
    sqlx::raw_sql(refuse).execute(&service.pool).await.unwrap();
    let refused = service.world.publish("refused").await.to_string();
    until("its failure is reported", async || {
        known(&refused).await["lastError"].as_str().is_some_and(|error| error.contains("fault"))
    })
    .await;
    sqlx::raw_sql("alter table notifications drop constraint fault")
        .execute(&service.pool)
        .await
        .unwrap();
    until("it took effect", async || known(&refused).await["appliedBy"].is_string()).await;
    let told = known(&refused).await;
    assert!(told["attempts"].as_i64().unwrap() >= 1 && told["lastError"].is_null(), "{told:#}");

    service.poison(&[b"no event"], 1).await;
    let letter = service.letters("").await.remove(0);
    let dead = letter["eventId"].as_str().unwrap();
    assert_eq!(known(dead).await["deadLetter"], letter["id"]);
    service.act("discard", &json!({ "by": "Ada", "ids": [letter["id"]] })).await;
    let told = known(dead).await;
    assert_eq!(
        (&told["acts"][0]["act"], &told["acts"][0]["operator"]),
        (&json!("discard"), &json!("Ada"))
    );
    assert!(told["deadLetter"].is_null());
    assert!(known(&uuid::Uuid::now_v7().to_string()).await.is_null());

    // The service's own event is found by its entity, with its place in the stream.
    let id = "select id from notifications where text like '%fine%'";
    let entity: uuid::Uuid = sqlx::query_scalar(id).fetch_one(&service.pool).await.unwrap();
    let events = async || {
        let answer = service.get(&format!("/operations/events?entity={entity}")).await;
        answer.json()["events"].as_array().unwrap().clone()
    };
    until("it is published", async || {
        let events = events().await;
        events.len() == 1 && events[0]["publication"]["state"] == "stored"
    })
    .await;
    let event = events().await.remove(0);
    assert_eq!(event["publication"]["sequence"], 2);
    assert_eq!(
        (&event["stream"], &event["subject"]),
        (&json!("NOTIFICATIONS"), &json!("notification:sent"))
    );
    assert!(event["data"]["text"].as_str().unwrap().contains("fine"));
    let unknown = service.get("/operations/events?entity=nobody").await.json();
    assert_eq!((&unknown["events"], &unknown["complete"]), (&json!([]), &json!(true)));
    for bad in ["", "entity=", "entity=x&unknown=1"] {
        service.get(&format!("/operations/events?{bad}")).await.is_problem(StatusCode::BAD_REQUEST);
    }
}
