//! The service `notifications`: stores a notification of each new ticket and publishes `notification:sent`, in one
//! transaction with the inbox entry. A template to copy: see "Adding a service" in CONTRIBUTING.md.

use axum::{Json, extract::State};
use clap::Parser;
use common::bus::{Failure, Listener, Pool, Received, Wake, outbox};
use common::events::asyncapi::{self, ServiceEvents};
use common::events::{family, ticket::TicketCreated};
use common::pod::service::{self, Service, ServiceSettings};
use common::pod::{http::middleware, openapi, problem::Problem};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use std::{ffi::OsString, process::ExitCode};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

family! {
    /// The stream of this service's events.
    stream NOTIFICATIONS = "NOTIFICATIONS", from "/notifications", schema 1;
    /// Every event of this service.
    events NotificationEvent of Notification;
    /// A notification was sent.
    Sent(NotificationSent) = "notification:sent" { "of a new ticket": "notification-sent.json", }
}

/// What the service publishes and receives.
pub const EVENTS: ServiceEvents = ServiceEvents::of::<TicketListener>(DOCUMENTED);

/// A notification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
pub struct Notification {
    /// Its id: that of the event that caused it.
    pub id: Uuid,
    /// The ticket that it is about.
    pub ticket_id: Uuid,
    /// What it says.
    pub text: String,
}

/// The service's settings: add your own to those that every service has.
#[derive(Debug, Clone, Parser)]
#[command(name = "notifications", version)]
pub struct Settings {
    #[command(flatten)]
    service: ServiceSettings,
}

/// The program, from its arguments (its own name first) and environment to its exit status.
pub async fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let run = async |settings: Settings| {
        Service::new("notifications", settings.service)
            .migrates(async |pool| Ok(sqlx::migrate!().set_ignore_missing(true).run(&pool).await?))
            .publishes(&[&NOTIFICATIONS])
            .listens(|parts| TicketListener(parts.wake.clone()))
            .serve(|parts| {
                let api = OpenApiRouter::new().routes(routes!(list)).with_state(parts.pool.clone());
                let (api, docs) = api.split_for_parts();
                let docs = openapi::routes(docs, "notifications", "Notifications of new tickets.");
                middleware(api.merge(docs).merge(asyncapi::routes(&EVENTS)), &parts.middleware)
            })
            .await
    };
    service::main::<Settings, TicketListener>(arguments, run).await
}

/// The service's member of `notifications-service`. Wakes the relay for the events that it publishes.
#[derive(Debug, Clone)]
pub struct TicketListener(Wake);

impl Listener for TicketListener {
    type Events = TicketCreated;
    const QUEUE_GROUP: &'static str = "notifications-service";

    async fn handle(
        &self,
        tx: &mut PgConnection,
        batch: &[&Received<TicketCreated>],
    ) -> Result<(), Failure> {
        let (mut ids, mut tickets, mut texts, mut events) = (vec![], vec![], vec![], vec![]);
        for received in batch {
            let ticket = &received.event.0;
            let text = format!("New: {} for {}", ticket.title, ticket.price);
            ids.push(received.id);
            tickets.push(ticket.id);
            texts.push(text.clone());
            let sent = Notification { id: received.id, ticket_id: ticket.id, text };
            events.push(received.in_trace(|| outbox::prepare(&NotificationSent(sent)))?);
        }
        let insert =
            "insert into notifications (id, ticket_id, text) select * from unnest($1, $2, $3)";
        sqlx::query(insert).bind(ids).bind(tickets).bind(texts).execute(&mut *tx).await?;
        Ok(outbox::put_prepared(tx, &events).await?)
    }

    fn after_commit(&self) {
        self.0.wake();
    }
}

/// List the newest hundred notifications.
#[utoipa::path(get, path = "/api/notifications", responses((status = 200, body = [Notification])))]
async fn list(State(pool): State<Pool>) -> Result<Json<Vec<Notification>>, Problem> {
    let newest = "select id, ticket_id, text from notifications order by id desc limit 100";
    let newest = sqlx::query_as(newest);
    Ok(Json(pool.run(async |connection| newest.fetch_all(connection).await).await?))
}
