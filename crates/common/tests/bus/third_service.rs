//! The template of a service works as documented, as its own process.

use std::{env, process::ExitCode};

use crate::member::{World, until};
use async_nats::jetstream;
use common::bus::envelope::Envelope;
use embedded::{
    ports,
    process::{Child, Command, Signal},
};
use sqlx::PgPool;

#[tokio::test]
async fn a_third_service_works_without_a_change_to_common() {
    let world = World::start().await;
    world.publish_first().await;
    let database = world.postgres.create_database("notifications").await.unwrap();
    let mut service = process(&world.nats.url(), &database);
    let pool = PgPool::connect(&database).await.unwrap();
    let texts = async || {
        let rows = sqlx::query_scalar("select text from notifications order by text");
        rows.fetch_all(&pool).await.unwrap_or_else(|_| Vec::<String>::new())
    };
    until("the first is noted", || async { texts().await == ["New: first for 1.00"] }).await;

    // Killed and restarted, it continues where it was.
    service.kill().await;
    world.publish("second").await;
    let address = format!("127.0.0.1:{}", ports::free().unwrap());
    let command = command(&world.nats.url(), &database).env("HTTP_ADDRESS", &address);
    service = command.spawn().unwrap();
    until("the second is noted", || async { texts().await.len() == 2 }).await;

    let jetstream = jetstream::new(async_nats::connect(world.nats.url()).await.unwrap());
    until("its own events are published", || async {
        let stream = jetstream.get_stream("NOTIFICATIONS").await;
        stream.is_ok_and(|stream| stream.cached_info().state.messages == 2)
    })
    .await;
    let stream = jetstream.get_stream("NOTIFICATIONS").await.unwrap();
    let event = stream.get_raw_message(2).await.unwrap();
    let envelope = Envelope::parse(&event.payload).unwrap();
    assert_eq!(&*envelope.kind, "notification:sent");
    assert!(envelope.data.get().contains("New: second"), "{}", envelope.data);

    let url = format!("http://{address}/api/notifications");
    let answer = testkit::client().get(url).send().await.unwrap();
    let notifications: serde_json::Value = answer.json().await.unwrap();
    let texts = [&notifications[0]["text"], &notifications[1]["text"]];
    assert_eq!(texts, ["New: second for 1.00", "New: first for 1.00"]);

    service.signal(Signal::TERM);
    assert!(service.wait().await.success());
}

fn process(nats: &str, database: &str) -> Child {
    command(nats, database).spawn().unwrap()
}

/// The command that starts the service, at a free port unless another is set.
pub(crate) fn command(nats: &str, database: &str) -> Command {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "third_service::child_process_that_runs_the_service", "--nocapture"])
        .env("A_SERVICE", "notifications")
        .env("POD_NAME", "notifications-1")
        .env("HTTP_ADDRESS", format!("127.0.0.1:{}", ports::free().unwrap()))
        .env("NATS_URL", nats)
        .env("DATABASE_URL", database)
        .env("LOG", "warn")
}

/// Not a test: the body of `process`. Does nothing in an ordinary test run.
#[tokio::test]
async fn child_process_that_runs_the_service() {
    if env::var_os("A_SERVICE").is_none() {
        return;
    }
    let ended = notifications::main(["notifications".into()]).await;
    assert_eq!(format!("{ended:?}"), format!("{:?}", ExitCode::SUCCESS));
}
