//! The operations API, tested on a third service, which gets it from `common`.

use embedded::{
    ports,
    process::{Child, Command},
};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use sqlx::PgPool;
use testkit::{Answer, client};

use crate::{
    member::{World, until},
    third_service::command,
};

const TOKEN: &str = "a-token-of-this-test";

/// A third service with the operations API, and its servers.
pub(crate) struct Service {
    pub(crate) world: World,
    pub(crate) pool: PgPool,
    pub(crate) http: Client,
    public: String,
    pub(crate) operations: String,
    _child: Child,
}

impl Service {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[("OPERATIONS_API", "on"), ("OPERATIONS_TOKEN", TOKEN)]).await
    }

    async fn start_with(settings: &[(&str, &str)]) -> Self {
        let world = World::start().await;
        world.publish_first().await;
        let url = world.postgres.create_database("notifications").await.unwrap();
        let (port, operations) = (ports::free().unwrap(), ports::free().unwrap());
        let command = configured(command(&world.nats.url(), &url), port, settings);
        let command = command.env("OPERATIONS_ADDRESS", format!("127.0.0.1:{operations}"));
        let child = command.spawn().unwrap();
        let public = format!("http://127.0.0.1:{port}");
        let operations = format!("http://127.0.0.1:{operations}");
        let pool = PgPool::connect(&url).await.unwrap();
        let http = client();
        let service = Self { world, pool, http, public, operations, _child: child };
        until("the first event took effect", async || service.texts().await.len() == 1).await;
        service
    }

    async fn texts(&self) -> Vec<String> {
        let rows = sqlx::query_scalar("select text from notifications order by text");
        rows.fetch_all(&self.pool).await.unwrap_or_default()
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        Answer::of(self.http.get(format!("{}{path}", self.operations))).await
    }

    pub(crate) async fn letters(&self, query: &str) -> Vec<Value> {
        let answer = self.get(&format!("/operations/dead-letters?{query}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        answer.json()["letters"].as_array().unwrap().clone()
    }

    pub(crate) async fn act(&self, act: &str, body: &Value) -> Answer {
        let url = format!("{}/operations/dead-letters/{act}", self.operations);
        Answer::of(self.http.post(url).bearer_auth(TOKEN).json(body)).await
    }

    async fn acts(&self) -> Vec<Value> {
        let answer = self.get("/operations/dead-letters/acts").await;
        answer.json()["acts"].as_array().unwrap().clone()
    }

    /// Publishes these bytes, and waits until there are this many dead letters.
    pub(crate) async fn poison(&self, payloads: &[&[u8]], letters: usize) {
        for payload in payloads {
            self.world.publish_bytes(payload).await;
        }
        until("they are dead letters", async || self.letters("").await.len() == letters).await;
    }
}

fn configured(mut command: Command, port: u16, settings: &[(&str, &str)]) -> Command {
    command = command.env("HTTP_ADDRESS", format!("127.0.0.1:{port}"));
    for (name, value) in settings {
        command = command.env(*name, *value);
    }
    command
}

#[tokio::test]
async fn a_third_service_serves_the_operations_api_only_on_the_port_of_its_metrics() {
    let service = Service::start().await;
    let about = service.get("/operations").await.json();
    assert_eq!(about["service"], "notifications");
    assert_eq!(about["queueGroups"], json!(["notifications-service"]));
    assert_eq!(about["streams"], json!(["NOTIFICATIONS"]));
    assert_eq!(service.get("/metrics").await.status, 200);
    let paths =
        ["", "/dead-letters", "/dead-letters/1", "/dead-letters/groups", "/dead-letters/acts"];
    for path in paths {
        let url = format!("{}/operations{path}", service.public);
        assert_eq!(Answer::of(service.http.get(url)).await.status, 404, "{path}");
    }
    let act = format!("{}/operations/dead-letters/discard", service.public);
    let act = service.http.post(act).bearer_auth(TOKEN).json(&json!({ "by": "x", "filter": {} }));
    assert_eq!(Answer::of(act).await.status, 404);
}

#[tokio::test]
async fn the_operations_api_is_off_by_default_and_read_only_without_a_token() {
    let service = Service::start_with(&[]).await;
    assert_eq!(service.get("/operations").await.status, 404);
    assert_eq!(service.get("/operations/dead-letters").await.status, 404);
    drop(service);
    let service = Service::start_with(&[("OPERATIONS_API", "on")]).await;
    service.poison(&[b"no event"], 1).await;
    assert_eq!(service.get("/operations").await.json()["mayAct"], false);
    let answer = service.act("discard", &json!({ "by": "x", "filter": {} })).await;
    answer.is_problem(StatusCode::FORBIDDEN);
    assert_eq!(service.letters("").await.len(), 1);
}

#[tokio::test]
async fn acts_require_the_token_and_requests_from_browsers_are_refused() {
    let service = Service::start().await;
    service.poison(&[b"no event"], 1).await;
    let url = format!("{}/operations/dead-letters/discard", service.operations);
    let body = json!({ "by": "somebody", "filter": {} });
    for token in [None, Some(""), Some("another"), Some("a-token-of-this-tes")] {
        let request = service.http.post(&url).json(&body);
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        Answer::of(request).await.is_problem(StatusCode::UNAUTHORIZED);
    }
    for (name, value, status) in [
        ("origin", "http://evil.example", StatusCode::FORBIDDEN),
        ("origin", &*service.operations, StatusCode::FORBIDDEN),
        ("sec-fetch-site", "same-origin", StatusCode::FORBIDDEN),
        ("host", "evil.example", StatusCode::MISDIRECTED_REQUEST),
    ] {
        let request = service.http.post(&url).bearer_auth(TOKEN).json(&body);
        Answer::of(request.header(name, value)).await.is_problem(status);
        let read = service.http.get(format!("{}/operations/dead-letters", service.operations));
        Answer::of(read.header(name, value)).await.is_problem(status);
    }
    assert_eq!(service.letters("").await.len(), 1, "nothing was done");
    assert!(service.acts().await.is_empty());
    assert_eq!(service.act("discard", &body).await.json()["letters"], 1);
}

#[tokio::test]
async fn dead_letters_can_be_grouped_by_reason_searched_and_read_byte_for_byte() {
    let service = Service::start().await;
    let bytes: &[u8] = b"\x00\xff<script>alert(1)</script>\x80";
    let needle = b"{\"needle\": 7}";
    service.poison(&[b"not 1", b"not 22", needle, bytes], 4).await;
    let groups = service.get("/operations/dead-letters/groups").await.json();
    assert_eq!((&groups["counted"], &groups["more"]), (&json!(4), &json!(false)));
    let sizes: Vec<_> =
        groups["groups"].as_array().unwrap().iter().map(|group| &group["letters"]).collect();
    assert_eq!(sizes.iter().filter_map(|size| size.as_i64()).sum::<i64>(), 4);
    // The two texts that are not JSON fail for the same reason, so they share a group.
    let largest = &groups["groups"][0];
    assert!(largest["letters"].as_i64().unwrap() >= 2, "{groups:#}");
    let pattern = largest["reason"].as_str().unwrap();
    let query = serde_urlencoded(&[("reason", pattern), ("queueGroup", "notifications-service")]);
    let of_group = service.letters(&query).await;
    assert_eq!(json!(of_group.len()), largest["letters"], "{of_group:#?}");

    let found = service.letters("text=needle").await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["bytes"], needle.len());
    let event = found[0]["eventId"].as_str().unwrap();
    assert_eq!(service.letters(&format!("text={event}")).await, found);
    assert!(service.letters("text=nothing-like-it").await.is_empty());
    assert!(service.letters("queueGroup=another").await.is_empty());

    // Page by page, newest first, each once.
    let (mut ids, mut after) = (Vec::new(), String::new());
    loop {
        let page = service.get(&format!("/operations/dead-letters?limit=1{after}")).await.json();
        ids.extend(page["letters"].as_array().unwrap().iter().map(|one| one["id"].clone()));
        let Some(next) = page["next"].as_i64() else { break };
        after = format!("&after={next}");
    }
    let all: Vec<_> = service.letters("").await.iter().map(|one| one["id"].clone()).collect();
    assert_eq!((ids.len(), ids), (4, all.clone()));

    let whole = service.get(&format!("/operations/dead-letters/{}", all[0])).await.json();
    let payload = whole["payloadBase64"].as_str().unwrap();
    assert_eq!(payload, base64(bytes), "the payload must be kept byte for byte");
    assert_eq!(whole["headers"]["x-origin"][0], "te\u{fffd}st");
    assert_eq!(whole["stream"], "TICKETS");
    service.get("/operations/dead-letters/999").await.is_problem(StatusCode::NOT_FOUND);
    for bad in ["limit=0", "limit=201", "unknown=1", "after=x", "text=", "text=%00"] {
        let answer = service.get(&format!("/operations/dead-letters?{bad}")).await;
        answer.is_problem(StatusCode::BAD_REQUEST);
    }
}

#[tokio::test]
async fn an_act_affects_exactly_what_was_previewed_and_its_operator_is_recorded() {
    let service = Service::start().await;
    let refuse = "alter table notifications add constraint fault check (text not like '%refused%')";
    sqlx::raw_sql(refuse).execute(&service.pool).await.unwrap();
    service.poison(&[b"poison 1", b"poison 2"], 2).await;
    let refused = service.world.publish("refused").await;
    until("it is a dead letter", async || service.letters("").await.len() == 3).await;

    let of_poison = json!({ "text": "poison" });
    let preview = json!({ "by": "Ada", "filter": of_poison, "dryRun": true });
    let preview = service.act("discard", &preview).await.json();
    assert_eq!((&preview["letters"], &preview["dryRun"]), (&json!(2), &json!(true)));
    assert_eq!((service.letters("").await.len(), service.acts().await.len()), (3, 0));
    // A dead letter that arrives after the preview is not affected.
    service.poison(&[b"poison 3"], 4).await;
    let discard = json!({ "by": " Ada ", "filter": of_poison, "upTo": preview["upTo"] });
    assert_eq!(service.act("discard", &discard).await.json()["letters"], 2);
    assert_eq!(service.letters("text=poison").await.len(), 1);

    sqlx::raw_sql("alter table notifications drop constraint fault")
        .execute(&service.pool)
        .await
        .unwrap();
    let letter = service.letters(&format!("text={refused}")).await.remove(0);
    let redrive = json!({ "by": "Grace", "ids": [letter["id"]] });
    assert_eq!(service.act("redrive", &redrive).await.json()["letters"], 1);
    until("it took effect", async || service.texts().await.len() == 2).await;

    let acts = service.acts().await;
    let told: Vec<_> = acts.iter().map(|act| (&act["act"], &act["operator"])).collect();
    assert_eq!(told, [(&json!("redrive"), &json!("Grace")), (&json!("discard"), &json!("Ada"))]);
    assert_eq!((&acts[1]["letters"], &acts[1]["via"]), (&json!(2), &json!("notifications-1")));
    assert_eq!(acts[1]["selection"]["filter"]["filter"], of_poison);
    assert_eq!(acts[0]["events"][0]["eventId"], json!(refused));
    assert_eq!(acts[1]["events"].as_array().unwrap().len(), 2);
    assert!(acts[0]["at"].as_str().unwrap() > acts[1]["at"].as_str().unwrap());

    // An act that affects nothing is not recorded.
    assert_eq!(service.act("discard", &discard).await.json()["letters"], 0);
    assert_eq!(service.acts().await.len(), 2);
    for bad in [
        json!({ "filter": {} }),
        json!({ "by": "", "filter": {} }),
        json!({ "by": "a\u{202e}b", "filter": {} }),
        json!({ "by": "x".repeat(101), "filter": {} }),
        json!({ "by": "x" }),
        json!({ "by": "x", "ids": [] }),
        json!({ "by": "x", "ids": [1], "filter": {} }),
        json!({ "by": "x", "filter": { "unknown": "1" } }),
        json!({ "by": "x", "filter": {}, "unknown": 1 }),
    ] {
        service.act("discard", &bad).await.is_problem(StatusCode::UNPROCESSABLE_ENTITY);
    }
    assert_eq!(service.letters("").await.len(), 1);
}

fn serde_urlencoded(pairs: &[(&str, &str)]) -> String {
    let url = reqwest::Url::parse_with_params("http://any", pairs).unwrap();
    url.query().unwrap().to_owned()
}

fn base64(bytes: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    STANDARD.encode(bytes)
}
