//! A complete third service: it stores a notification for each new ticket and publishes an event of its
//! own. Nothing in `common` knows about it. Copy it to start a service of your own.
//!
//! While `cargo run` runs the system, in another terminal, with a database of your own:
//! `DATABASE_URL=postgres://… cargo run -p common --example notifications`

use std::{ffi::OsString, process::ExitCode};

use axum::{Json, Router, extract::State, routing::get};
use clap::Parser;
use common::{
    bus::{Failure, Listener, Pool, Received, Wake, outbox},
    events::{Event, Stream, ticket::TicketCreated},
    pod::{
        http,
        problem::Problem,
        service::{self, Service, ServiceSettings},
    },
};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use uuid::Uuid;

/// The stream of this service's events.
pub(crate) const NOTIFICATIONS: Stream = Stream {
    name: "NOTIFICATIONS",
    subjects: &[NotificationSent::SUBJECT],
    schema_prefix: "urn:notifications:event:",
};

/// A notification about a ticket was sent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct NotificationSent {
    ticket_id: Uuid,
    text: String,
}

impl Event for NotificationSent {
    const SUBJECT: &'static str = "notification:sent";
    const STREAM: &'static Stream = &NOTIFICATIONS;
    const SCHEMA_VERSION: u32 = 1;
    const SOURCE: &'static str = "/notifications";

    fn entity_id(&self) -> String {
        self.ticket_id.to_string()
    }
}

/// A member of the queue group. Its writes and the event it publishes are committed together with
/// the inbox entry: either all of it happens, exactly once, or none.
pub(crate) struct Tell(Wake);

impl Listener for Tell {
    type Events = TicketCreated;
    const QUEUE_GROUP: &'static str = "notifications-service";

    async fn handle(
        &self,
        tx: &mut PgConnection,
        batch: &[&Received<TicketCreated>],
    ) -> Result<(), Failure> {
        for received in batch {
            let ticket = &received.event.0;
            let text = format!("New: {} for {}", ticket.title, ticket.price);
            sqlx::query("insert into notifications (ticket_id, text) values ($1, $2)")
                .bind(ticket.id)
                .bind(&text)
                .execute(&mut *tx)
                .await?;
            let sent = NotificationSent { ticket_id: ticket.id, text };
            // As part of the event's trace, which a batch of several has not.
            let event = received.in_trace(|| outbox::prepare(&sent))?;
            outbox::put_prepared(tx, [&event]).await?;
        }
        Ok(())
    }

    fn after_commit(&self) {
        self.0.wake();
    }
}

/// `GET /api/notifications`: a hundred of what was sent.
async fn list(State(pool): State<Pool>) -> Result<Json<Vec<String>>, Problem> {
    let texts = sqlx::query_scalar("select text from notifications limit 100");
    let texts = pool.run(async |connection| texts.fetch_all(connection).await).await;
    Ok(Json(texts.map_err(|error: sqlx::Error| Problem::internal(&error.into()))?))
}

/// Sends notifications about new tickets.
#[derive(Debug, Clone, Parser)]
pub(crate) struct Settings {
    #[command(flatten)]
    service: ServiceSettings,
}

#[tokio::main]
async fn main() -> ExitCode {
    main_with(std::env::args_os().collect()).await
}

/// The service, from its arguments to its exit status.
pub(crate) async fn main_with(arguments: Vec<OsString>) -> ExitCode {
    service::main::<Settings, Tell>(arguments, run).await
}

pub(crate) async fn run(settings: Settings) -> ExitCode {
    Service::new("notifications", settings.service)
        .migrates(async |pool| {
            // With more than one table, use `sqlx::migrate!`, as `orders` does.
            let table = "create table if not exists notifications (ticket_id uuid, text text)";
            sqlx::raw_sql(table).execute(&pool).await?;
            Ok(())
        })
        .publishes(&[&NOTIFICATIONS])
        .listens(|parts| Tell(parts.wake.clone()))
        .serve(|parts| {
            let api = Router::new().route("/api/notifications", get(list));
            http::middleware(api.with_state(parts.pool.clone()), &parts.middleware)
        })
        .await
}
