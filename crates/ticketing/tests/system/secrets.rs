//! No output contains a password, whatever fails, and the content of an event cannot control a terminal.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use embedded::{
    NatsServer, ports,
    process::{Child, Command},
};
use serde_json::Value;

use crate::{
    command::ticketing,
    harness::{PATIENCE, System, until},
    up::Place,
};

/// The password that must not appear anywhere.
const MARK: &str = "m4rkedPassw0rdThatNobodyMaySee00000";

/// How each program is run.
const PROGRAMS: [&[&str]; 7] = [
    &["tickets"],
    &["orders"],
    &["publish", "--once"],
    &["listen"],
    &["status"],
    &["dead-letters", "list"],
    &["up"],
];

struct Settings {
    nats_url: String,
    database_url: String,
}

impl Settings {
    /// Runs a program with marked passwords until it exits or prints what it waits for.
    async fn said_by(&self, folder: &Path, arguments: &[&str], format: &str) -> String {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ticketing"))
            .args(arguments)
            .current_dir(folder)
            .env("NATS_URL", &self.nats_url)
            .env("DATABASE_URL", &self.database_url)
            .env("NATS_USER", "somebody")
            .env("NATS_PASSWORD", MARK)
            .env("AUTH", "hs256")
            .env("JWT_KEY", MARK)
            .env("HTTP_ADDRESS", "127.0.0.1:0")
            .env("LOG", "trace")
            .env("LOG_FORMAT", format)
            .piped()
            .spawn()
            .unwrap();
        let waits = ["database unavailable", "authorization violation", "AuthorizationViolation"];
        let said = lines_until(&mut child, &waits).await;
        child.kill().await;
        said
    }
}

/// A process's output until it exits, or until a line contains one of these texts.
async fn lines_until(child: &mut Child, texts: &[&str]) -> String {
    let mut said = String::new();
    let read = async {
        while let Some(line) = child.line().await {
            said += &line;
            said.push('\n');
            if texts.iter().any(|text| line.contains(text)) {
                return;
            }
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, read).await;
    assert!(in_time.is_ok(), "it neither ended nor said one of {texts:?}: {said}");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn no_output_contains_a_password_whatever_fails() {
    let folder = tempfile::tempdir().unwrap();
    let system = System::start().await;
    let nats = NatsServer::builder().with_password().start().await.unwrap();
    let (nobody, postgres) = (ports::free().unwrap(), system.postgres.port());
    let settings = |nats_url: String, database_url: String| Settings { nats_url, database_url };
    let unreachable = settings(
        format!("nats://local:{MARK}@127.0.0.1:{nobody}"),
        format!("postgres://postgres:{MARK}@127.0.0.1:{nobody}/orders"),
    );
    let wrong = settings(
        format!("nats://local:{MARK}@127.0.0.1:{}", nats.client_port()),
        format!("postgres://postgres:{MARK}@127.0.0.1:{postgres}/orders"),
    );
    let no_urls = settings(
        format!("http://local:{MARK}@127.0.0.1:{nobody},nats://a:{MARK}@b"),
        format!("postgres:/postgres:{MARK}@127.0.0.1/orders?password={MARK}&sslmode=x"),
    );
    let no_database = settings(wrong.nats_url.clone(), no_urls.database_url.clone());
    let nats_url = ["--nats-url", &no_urls.nats_url];
    let stray = [&no_urls.nats_url[..]];
    for arguments in PROGRAMS {
        let with = |more: &[&'static str]| [arguments, more].concat();
        let mut runs = vec![(&unreachable, with(&["--help"]), "json")];
        if arguments != ["up"] {
            runs.push((&unreachable, with(&[]), "json"));
            runs.push((&wrong, with(&[]), "json"));
            runs.push((&wrong, with(&[]), "pretty"));
            runs.push((&no_urls, with(&[]), "json"));
            runs.push((&no_database, with(&[]), "json"));
        }
        // As arguments, some of them where no URL is expected.
        runs.push((&unreachable, [arguments, &nats_url].concat(), "json"));
        runs.push((&unreachable, [arguments, &stray].concat(), "json"));
        let runs = runs.iter().map(|(settings, arguments, format)| {
            settings.said_by(folder.path(), arguments, format)
        });
        let said = futures::future::join_all(runs).await;
        for said in said {
            assert!(!said.is_empty(), "{arguments:?} said nothing");
            let at = said.find(MARK).map(|at| &said[at.saturating_sub(300)..]);
            assert_eq!(at, None, "{arguments:?}");
        }
    }
    let settings = (MARK.into(), "x".to_owned());
    let shown: (common::pod::secret::Secret, String) = settings;
    assert!(!format!("{shown:?}").contains(MARK));
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_of_a_running_system_are_only_in_files_private_to_its_user() {
    let place = Place::new();
    let (running, stack) = place.up(&[]).await;
    let nats = password(&stack["nats_url"]);
    let postgres = password(&stack["databases"]["orders"]);
    assert!(nats.len() >= 32 && postgres.len() >= 32);
    let mode = |path: PathBuf| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(place.path("stack.json")), 0o600);
    assert_eq!(mode(place.path("nats/nats-server.conf")), 0o600);
    assert_eq!(mode(place.path("")) & 0o066, 0, "others may at most pass");
    for folder in ["logs", "nats", "postgres"] {
        assert_eq!(mode(place.path(folder)), 0o700, "{folder}");
    }
    // Nobody can connect without them.
    let nats_url: url::Url = stack["nats_url"].as_str().unwrap().parse().unwrap();
    let address = format!("127.0.0.1:{}", nats_url.port().unwrap());
    assert!(async_nats::connect(address).await.is_err());
    // What `ps` shows to every user.
    for process in fs::read_dir("/proc").unwrap() {
        let arguments = fs::read(process.unwrap().path().join("cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments).into_owned();
        assert!(!arguments.contains(&nats) && !arguments.contains(&postgres), "{arguments}");
    }
    let (status, said) = place.run_tool(&["status"]).end().await;
    assert!(status.success(), "{said}");
    let (_, json) = place.run_tool(&["status", "--json"]).end().await;
    let (status, published) = place.run_tool(&["publish", "--once"]).end().await;
    assert!(status.success(), "{published}");
    let (_, up) = running.interrupt().await;
    let logs = fs::read_dir(place.path("logs")).unwrap();
    let logs = logs.map(|log| fs::read_to_string(log.unwrap().path()).unwrap());
    for said in [said, json, published, up].into_iter().chain(logs) {
        assert!(!said.contains(&nats) && !said.contains(&postgres), "{said}");
    }
}

fn password(url: &Value) -> String {
    let url: url::Url = url.as_str().unwrap().parse().unwrap();
    url.password().unwrap().to_owned()
}

/// Clears the screen in three ways, starts a new line, and reverses text.
const ACTIVE: &str = "\u{1b}[2J\u{9b}2J\u{1b}c\nERROR forged\u{202e}\u{2066}\u{7f}\u{200f}";

#[tokio::test(flavor = "multi_thread")]
async fn an_events_content_cannot_control_a_terminal_or_forge_a_log_line() {
    let system = System::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (nats_url, database_url) = (system.nats.url(), system.postgres.url("orders"));
    let mut services = Vec::new();
    for format in ["json", "pretty"] {
        let mut service = Command::new(env!("CARGO_BIN_EXE_ticketing"))
            .args(["orders"])
            .env("POD_NAME", format!("orders-{format}"))
            .env("AUTH", "off")
            .env("HTTP_ADDRESS", "127.0.0.1:0")
            .env("NATS_URL", &nats_url)
            .env("DATABASE_URL", &database_url)
            .env("LOG_FORMAT", format)
            .piped()
            .spawn()
            .unwrap();
        lines_until(&mut service, &["joined the queue group"]).await;
        services.push(service);
    }
    let mut listener = ticketing(folder.path(), &["listen", "--nats-url", &nats_url]);
    listener.line_with("Listening to").await;
    // One event that takes effect, with the text in its subject; one that does not, with the text everywhere.
    let event = |title: &str| {
        let id = uuid::Uuid::now_v7();
        serde_json::json!({
            "specversion": "1.0", "id": id, "source": "/tickets", "type": "ticket:created",
            "subject": ACTIVE, "time": "2026-01-01T00:00:00Z",
            "dataschema": "urn:ticketing:event:ticket:created:1",
            "data": {
                "id": id, "title": title, "price": 1, "version": 1,
                "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
            },
        })
    };
    let mut bad = event(ACTIVE);
    bad["dataschema"] = ACTIVE.into();
    for n in 0..20 {
        let good = event("a\u{202e}b");
        let raw = if n % 2 == 0 { &good } else { &bad };
        let arguments = ["publish", "--nats-url", &nats_url, "--raw", &raw.to_string()];
        let (status, said) = ticketing(folder.path(), &arguments).end().await;
        assert!(status.success(), "{said}");
        bad["id"] = uuid::Uuid::now_v7().to_string().into();
    }
    until("all were handled", || async {
        let handled =
            "select (select count(*) from tickets) + (select count(*) from bus.dead_letters)";
        let handled: i64 = sqlx::query_scalar(handled).fetch_one(&system.orders_db).await.unwrap();
        handled == 20
    })
    .await;
    let mut said: Vec<String> = Vec::new();
    for service in &mut services {
        service.signal(embedded::process::Signal::TERM);
        said.push(lines_until(service, &[]).await);
    }
    assert!(said.iter().all(|said| said.contains("event handled") || said.contains("dead letter")));
    listener.line_with("#20 ").await;
    said.push(listener.read.join("\n"));
    for arguments in [&["list"][..], &["list", "--json"], &["show", "1"]] {
        let arguments = [&["dead-letters", "--database-url", &database_url], arguments].concat();
        let (status, letters) = ticketing(folder.path(), &arguments).end().await;
        assert!(status.success(), "{letters}");
        said.push(letters);
    }
    for said in said {
        let active =
            |c: char| c != '\n' && (c.is_control() || "\u{202e}\u{2066}\u{200f}".contains(c));
        assert!(!said.contains(active), "{said:?}");
        assert!(!said.lines().any(|line| line.starts_with("ERROR forged")), "{said}");
    }
}
