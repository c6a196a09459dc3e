//! The services' operations APIs, and what the console shows from them.

use serde_json::{Value, json};
use testkit::client;

use crate::{
    command::{Running, service_with},
    harness::until,
    up::Place,
};

#[tokio::test]
async fn invalid_operations_api_settings_exit_64_and_are_named() {
    for (settings, name) in [
        (vec![("OPERATIONS_API", "on")], "OPERATIONS_ADDRESS"),
        (vec![("OPERATIONS_TOKEN", "tooshort")], "operations-token"),
        (vec![("OPERATIONS_TOKEN", "tooshort but with blanks")], "operations-token"),
        (vec![("OPERATIONS_API", "maybe")], "operations-api"),
    ] {
        let settings = [settings, vec![("AUTH", "off")]].concat();
        let (code, said) = service_with("tickets", &settings).await;
        assert_eq!(code, Some(64), "{settings:?}: {said}");
        assert!(said.contains(name), "{settings:?}: {said}");
        assert!(!said.contains("tooshort"), "{said}");
    }
}

#[tokio::test]
async fn timelines_follow_a_ticket_and_its_order_through_both_services() {
    let place = Place::new();
    let (running, stack) = place.up(&["--replicas", "2"]).await;
    let (console, http) = (place.console().await, client());
    let url = |name: &str| stack["services"][name].as_str().unwrap().to_owned();
    let post = async |url: String, body: Value| {
        let mut answer = Value::Null;
        until("it is answered 201", async || {
            let Ok(sent) = http.post(&url).json(&body).send().await else { return false };
            let status = sent.status();
            answer = sent.json().await.unwrap_or(Value::Null);
            status == 201
        })
        .await;
        answer["id"].as_str().unwrap().to_owned()
    };
    let ticket = post(
        format!("{}/api/tickets", url("tickets-1")),
        json!({ "title": "Concert", "price": 20 }),
    )
    .await;
    let order =
        post(format!("{}/api/orders", url("orders-1")), json!({ "ticketId": ticket })).await;
    let timeline = async |entity: &str| -> Value {
        let answer = http.get(format!("{console}/api/timeline?entity={entity}")).send().await;
        answer.unwrap().json().await.unwrap()
    };
    let applied = |timeline: &Value, events: usize| {
        let found = timeline["events"].as_array().map(Vec::as_slice).unwrap_or_default();
        found.len() == events
            && found.iter().all(|event| {
                event["publication"]["state"] == "stored"
                    && event["groups"][0]["state"] == "applied"
            })
    };
    let listener = watcher(&place).await;
    // Created, and reserved by the order.
    until("the ticket's events are applied", async || applied(&timeline(&ticket).await, 2)).await;
    let of_ticket = timeline(&ticket).await;
    let created = &of_ticket["events"][0];
    assert_eq!(
        (&created["service"], &created["subject"]),
        (&json!("tickets"), &json!("ticket:created"))
    );
    assert_eq!(created["publication"]["sequence"], 1);
    assert_eq!(created["traceId"].as_str().unwrap().len(), 32);
    let group = &created["groups"][0];
    assert_eq!(
        (&group["queueGroup"], &group["service"]),
        (&json!("orders-service"), &json!("orders"))
    );
    watcher_has_it(&console, &ticket).await;
    assert!(listener.interrupt().await.0.success());
    let by = group["known"]["appliedBy"].as_str().unwrap();
    assert!(["orders-1", "orders-2"].contains(&by), "{by}");
    let known = &group["known"];
    let moments =
        [&created["time"], &created["writtenAt"], &known["deliveredAt"], &known["appliedAt"]];
    assert!(moments.windows(2).all(|pair| pair[0].as_str() < pair[1].as_str()), "{moments:?}");

    until("the order's event is applied", async || applied(&timeline(&order).await, 1)).await;
    let of_order = timeline(&order).await;
    let reserved = &of_order["events"][0];
    assert_eq!(
        (&reserved["service"], &reserved["subject"]),
        (&json!("orders"), &json!("order:created"))
    );
    assert_eq!(reserved["groups"][0]["known"]["appliedBy"], "tickets-1");
    the_sums_agree_or_it_says_where_not(&console, &stack).await;
    assert_eq!(timeline("nobody").await["events"], json!([]));
    let empty = http.get(format!("{console}/api/timeline?entity=")).send().await.unwrap();
    assert_eq!(empty.status(), 400);
    assert!(running.interrupt().await.0.success());
}

/// A listener in no group gets every event as well.
async fn watcher(place: &Place) -> Running {
    let listener =
        ["listen", "--client-id", "watcher", "--from", "all", "--subject", "ticket:created"];
    let mut listener = place.run_tool(&listener);
    listener.line_with("Received ticket:created #1").await;
    listener
}

/// Waits until the timeline shows that the listener acknowledged the event, and checks that `/streaming` shows it
/// as a subscription without a queue.
async fn watcher_has_it(console: &str, ticket: &str) {
    let http = client();
    let timeline = format!("{console}/api/timeline?entity={ticket}");
    until("the listener has it", async || {
        let answer = http.get(&timeline).send().await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        let watcher = &answer["events"][0]["groups"][1];
        watcher["listener"] == "watcher" && watcher["state"] == "acknowledged"
    })
    .await;
    let channel = format!("{console}/streaming/channelsz?channel=ticket:created&subs=1");
    let channel: Value = http.get(channel).send().await.unwrap().json().await.unwrap();
    let subscriptions = channel["subscriptions"].as_array().unwrap();
    let watcher = subscriptions.iter().find(|subscription| subscription["client_id"] == "watcher");
    let watcher = watcher.unwrap_or_else(|| panic!("{channel:#}"));
    assert_eq!((&watcher["is_durable"], &watcher["queue_name"]), (&json!(false), &json!("")));
}

/// Checks the totals after everything has been applied: two events of tickets, one of orders.
async fn the_sums_agree_or_it_says_where_not(console: &str, stack: &Value) {
    let totals = async || -> Value {
        let answer = client().get(format!("{console}/api/totals")).send().await.unwrap();
        answer.json().await.unwrap()
    };
    let sums = |totals: &Value, stream: &str| {
        let mut streams = totals["streams"].as_array().into_iter().flatten();
        let of_stream =
            streams.find(|known| known["stream"] == stream).cloned().unwrap_or_default();
        let group = of_stream["groups"][0].clone();
        let all =
            [&of_stream["committed"], &of_stream["published"], &group["taken"], &group["applied"]];
        (all.map(|sum| sum.as_i64().unwrap_or(-1)), group["missing"].as_i64().unwrap_or(-1), group)
    };
    let found = totals().await;
    assert_eq!(found["unknown"], json!([]), "{found:#}");
    assert_eq!(sums(&found, "TICKETS").0, [2; 4], "{found:#}");
    assert_eq!(sums(&found, "ORDERS").0, [1; 4], "{found:#}");
    assert_eq!((sums(&found, "TICKETS").1, sums(&found, "ORDERS").1), (0, 0));

    // Simulates an event that was acked but never took effect.
    let database = stack["databases"]["orders"].as_str().unwrap();
    let pool = sqlx::PgPool::connect(database).await.unwrap();
    let forget = "delete from bus.inbox where event_id = (select event_id from bus.inbox limit 1)
                  returning event_id::text";
    let forgotten: String = sqlx::query_scalar(forget).fetch_one(&pool).await.unwrap();
    until("it is reported missing, with its id", async || {
        let (_, missing, group) = sums(&totals().await, "TICKETS");
        missing == 1 && group["named"] == json!([forgotten]) && group["applied"] == 1
    })
    .await;
    // Also while other events are on their way: then it cannot be named.
    let mut lock = pool.begin().await.unwrap();
    sqlx::query("lock table tickets in share mode").execute(&mut *lock).await.unwrap();
    let tickets = stack["services"]["tickets-1"].as_str().unwrap();
    let ticket = json!({ "title": "On its way", "price": 1 });
    let post = client().post(format!("{tickets}/api/tickets")).json(&ticket).send().await;
    assert_eq!(post.unwrap().status(), 201);
    until("one is missing and one waits", async || {
        let (_, missing, group) = sums(&totals().await, "TICKETS");
        missing == 1 && group["waiting"] == 1 && group["named"] == json!([])
    })
    .await;
    lock.rollback().await.unwrap();
}
