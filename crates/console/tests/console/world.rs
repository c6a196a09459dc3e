//! A nats-server, a console that watches it, and an HTTP client.

use std::time::Duration;

use common::bus::{Bus, Lease, Shutdown, StopReason};
use embedded::{
    NatsServer, ports,
    process::{Child, Command},
};
use serde_json::Value;
use tokio::time::{Instant, sleep};

/// Nothing takes this long unless it is lost.
const PATIENCE: Duration = Duration::from_secs(60);

/// A console and what it watches.
pub(crate) struct World {
    pub(crate) nats: NatsServer,
    pub(crate) http: reqwest::Client,
    pub(crate) url: String,
    _console: Child,
}

/// A process that holds a client id, as a service would.
pub(crate) struct Member {
    pub(crate) bus: Bus,
    _lease: Lease,
    _shutdown: Shutdown,
    _reason: StopReason,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a console with these additional settings.
    pub(crate) async fn start_with(settings: &[(&str, &str)]) -> Self {
        let nats = NatsServer::builder().start().await.unwrap();
        let port = ports::free().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_console"))
            .env("POD_NAME", "console-1")
            .env("HTTP_ADDRESS", format!("127.0.0.1:{port}"))
            .env("NATS_URL", nats.url())
            .env("NATS_MONITOR_URL", nats.monitor_url())
            .env("LOG", "warn")
            .env("LOG_FORMAT", "json");
        for (name, value) in settings {
            command = command.env(*name, *value);
        }
        let console = command.spawn().unwrap();
        let http = ticketing_console::sources::monitor::http_client(
            ticketing_console::sources::ANSWER_TIMEOUT,
        )
        .unwrap();
        let world = Self { nats, http, url: format!("http://127.0.0.1:{port}"), _console: console };
        world.until("the console answers", "/streaming/serverz", |_| true).await;
        world
    }

    /// Waits until the console answers 200 with JSON that satisfies a condition. Returns the JSON.
    pub(crate) async fn until(
        &self,
        what: &str,
        path: &str,
        holds: impl Fn(&Value) -> bool,
    ) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (status, answer) = self.get(path).await;
            if status == 200 && holds(&answer) {
                return answer;
            }
            assert!(Instant::now() < deadline, "timed out waiting until {what}: {status} {answer}");
            sleep(Duration::from_millis(25)).await;
        }
    }

    /// Returns the status and the body; status 0 if there is no answer.
    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        match self.http.get(format!("{}{path}", self.url)).send().await {
            Ok(answer) => (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null)),
            Err(_) => (0, Value::Null),
        }
    }

    /// A member of a queue group.
    pub(crate) async fn member(&self, id: &str, group: &str) -> Member {
        let (shutdown, reason) = Shutdown::new();
        let options = common::bus::Options {
            servers: self.nats.url(),
            node: "node-a".to_owned(),
            ..common::bus::Options::new(id.parse().unwrap())
        };
        let bus = Bus::connect(&options, &shutdown).await.unwrap();
        let lease = Lease::take(&bus, &shutdown, "orders", &[group]).await.unwrap();
        tokio::time::timeout(PATIENCE, lease.held()).await.unwrap();
        Member { bus, _lease: lease, _shutdown: shutdown, _reason: reason }
    }
}
