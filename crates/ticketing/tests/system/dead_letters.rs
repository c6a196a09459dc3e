//! Dead letters as an operator handles them: listed, redriven after a fix, or deleted.

use serde_json::Value;

use crate::{
    command::ticketing,
    harness::{System, until},
};

#[tokio::test]
async fn a_dead_letter_can_be_listed_redriven_after_a_fix_and_discarded() {
    let system = System::start().await;
    let _orders = system.orders("orders-1").await;
    let folder = tempfile::tempdir().unwrap();
    let nats_url = system.nats.url();
    let database_url = system.postgres.url("orders");
    let publish = async |arguments: &[&str]| {
        let arguments = [&["publish", "--nats-url", &nats_url], arguments].concat();
        let (status, said) = ticketing(folder.path(), &arguments).end().await;
        assert!(status.success(), "{said}");
    };
    let letters = async |arguments: &[&str]| {
        let arguments = [&["dead-letters", "--database-url", &database_url], arguments].concat();
        let (status, said) = ticketing(folder.path(), &arguments).end().await;
        (status.code(), said)
    };
    let list = async || {
        let (status, said) = letters(&["list", "--json"]).await;
        assert_eq!(status, Some(0), "{said}");
        serde_json::from_str::<Vec<Value>>(&said).unwrap()
    };

    // One that no listener can decode, and one that the database rejects for now.
    let refuse =
        "alter table tickets add constraint fault check (state->>'title' <> 'refused') not valid";
    sqlx::raw_sql(refuse).execute(&system.orders_db).await.unwrap();
    publish(&["--raw", "no event"]).await;
    publish(&[r#"{"title": "refused", "price": 1}"#]).await;
    publish(&[r#"{"title": "fine", "price": 1}"#]).await;
    until("both are dead letters", || async { list().await.len() == 2 }).await;
    assert_eq!(system.known().await.len(), 1, "their neighbour took effect");
    let dead = list().await;
    assert!(dead[0]["reason"].as_str().unwrap().contains("CloudEvent"), "{dead:#?}");
    assert_eq!(dead[0]["payload"], "no event");
    assert!(dead[1]["reason"].as_str().unwrap().contains("fault"), "{dead:#?}");
    let (garbage, refused) = (dead[0]["id"].to_string(), dead[1]["id"].to_string());
    let (_, shown) = letters(&["show", &refused]).await;
    assert!(shown.contains("Nats-Msg-Id") && shown.contains("refused"), "{shown}");

    let (_, said) = letters(&["redrive", &refused]).await;
    assert!(said.contains("failed again"), "{said}");
    let mend = "alter table tickets drop constraint fault";
    sqlx::raw_sql(mend).execute(&system.orders_db).await.unwrap();
    let (_, said) = letters(&["redrive", &refused]).await;
    assert!(said.contains("All took effect"), "{said}");
    assert_eq!(system.known().await.len(), 2);

    let (status, said) = letters(&["discard", "all"]).await;
    assert_eq!(status, Some(1), "{said}");
    let (status, said) = letters(&["discard", &garbage]).await;
    assert_eq!(status, Some(0), "{said}");
    assert!(list().await.is_empty());
    let acts: Vec<(String, i64)> = sqlx::query_as(
        "select act, letters from bus.operator_acts where via like 'ticketing%' order by id",
    )
    .fetch_all(&system.orders_db)
    .await
    .unwrap();
    let acts: Vec<_> = acts.iter().map(|(act, letters)| (act.as_str(), *letters)).collect();
    assert_eq!(acts, [("redrive", 1), ("redrive", 1), ("discard", 1)], "what was done is recorded");
    let (status, said) = letters(&["redrive", &garbage]).await;
    assert_eq!(status, Some(1), "{said}");
    system.each_effect_happened_once().await;
}

#[tokio::test]
async fn an_event_with_an_impossible_year_becomes_a_dead_letter_and_tickets_are_still_listed() {
    let system = System::start().await;
    let orders = system.orders("orders-1").await;
    let folder = tempfile::tempdir().unwrap();
    let nats_url = system.nats.url();
    let publish = async |payload: &str| {
        let arguments = ["publish", "--nats-url", &nats_url, payload];
        ticketing(folder.path(), &arguments).end().await
    };
    let (status, said) =
        publish(r#"{"title": "old", "price": 1, "created_at": "0000-01-01T00:00:00Z"}"#).await;
    assert!(!status.success() && said.contains("created_at: must be in the years"), "{said}");
    // Bypasses the tool's check.
    let id = uuid::Uuid::now_v7();
    let event = serde_json::json!({
        "specversion": "1.0", "id": id, "source": "/tickets", "type": "ticket:created",
        "subject": id, "time": "2026-01-01T00:00:00Z",
        "dataschema": "urn:ticketing:event:ticket:created:1",
        "data": {
            "id": id, "title": "old", "price": 1, "version": 1,
            "created_at": "0000-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
        },
    });
    let raw = ["publish", "--nats-url", &nats_url, "--raw", &event.to_string()];
    let (status, said) = ticketing(folder.path(), &raw).end().await;
    assert!(status.success(), "{said}");
    let (status, said) = publish(r#"{"title": "fine", "price": 1}"#).await;
    assert!(status.success(), "{said}");
    until("the fine one took effect", || async { system.known().await.len() == 1 }).await;
    let shown = system.http.get(format!("{}/api/tickets", orders.url)).send().await.unwrap();
    assert_eq!(shown.status(), 200);
    let reason: String = sqlx::query_scalar("select reason from bus.dead_letters")
        .fetch_one(&system.orders_db)
        .await
        .unwrap();
    assert!(reason.contains("created_at: must be in the years 1 to 9999"), "{reason}");
}
