//! A third service, complete: it hears of new tickets, notes whom it would tell, and publishes an
//! event of its own. Nothing in `common` knows of it. Copy it to begin a service of yours.
//!
//! With the whole system up by `cargo run`, in another terminal, with a database of your own:
//! `DATABASE_URL=postgres://… cargo run -p common --example notifications`

use std::process::ExitCode;

use axum::Router;
use clap::Parser;
use common::{
    bus::{self, Delivery, Failure, Lease, Listener, Received, Relay, Wake, outbox},
    events::{Event, Stream, ticket::TicketCreated},
    pod::{
        config::{self, DatabaseSettings, NatsSettings, PodSettings},
        database,
        http::Http,
        process::{self, Pod},
        provision,
    },
};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use uuid::Uuid;

/// The stream that its own events travel.
const NOTIFICATIONS: Stream = Stream {
    name: "NOTIFICATIONS",
    subjects: &[NotificationSent::SUBJECT],
    schema_prefix: "urn:notifications:event:",
};

/// Somebody was told of a ticket.
#[derive(Debug, Serialize, Deserialize)]
struct NotificationSent {
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

/// The member of the queue group. What it writes commits with the event's place in the inbox, and
/// so does the event that it publishes: all of it happens once, or none.
struct Tell {
    wake: Wake,
}

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
            outbox::put(tx, &NotificationSent { ticket_id: ticket.id, text }).await?;
        }
        Ok(())
    }

    fn after_commit(&self) {
        self.wake.wake();
    }
}

/// Tells of new tickets.
#[derive(Debug, Clone, Parser)]
pub(crate) struct Settings {
    #[command(flatten)]
    pod: PodSettings,
    #[command(flatten)]
    database: DatabaseSettings,
    #[command(flatten)]
    nats: NatsSettings,
}

#[tokio::main]
async fn main() -> ExitCode {
    match provision::asked() {
        // `notifications provision`, where it has a NATS account of its own.
        Some(settings) => provision::run::<Tell>(settings).await,
        None => run(config::parse()).await,
    }
}

pub(crate) async fn run(settings: Settings) -> ExitCode {
    process::run(settings.pod.clone(), async |pod: Pod| {
        let http = Http::bind(&settings.pod)?;
        let bus = pod.connect(&settings.nats).await?;
        let lease = Lease::take(&bus, &pod.shutdown, "notifications", &[Tell::QUEUE_GROUP]).await?;
        let pool = database::connect(&settings.database, &pod.client_id).await?;
        let migration_pool = database::migration_pool(&pool);
        bus::migrate(&migration_pool).await?;
        // A service of more than one table keeps migrations, as `orders` does.
        // The lock: two replicas that start together would otherwise both create it, and one would fail.
        sqlx::raw_sql(
            "select pg_advisory_xact_lock(hashtext('notifications'));
             create table if not exists notifications (ticket_id uuid, text text)",
        )
        .execute(&migration_pool)
        .await?;
        migration_pool.close().await;

        let watch = database::watch(pool.clone(), pod.health.clone(), pod.shutdown.clone());
        pod.shutdown.spawn("database watch", watch);
        let (relay, wake) = Relay::new(bus.clone(), pool.clone(), &[&NOTIFICATIONS]);
        pod.shutdown.spawn("relay", relay.run(pod.shutdown.clone()));
        let tell = Tell { wake };
        Delivery::new(tell, bus.clone(), pool.clone(), pod.shutdown.clone()).spawn(lease.clone());
        // It has no API, only probes and metrics.
        http.spawn(Router::new(), &pod)?;
        Ok(async move || {
            lease.release().await;
            bus.close().await;
            database::close(pool).await;
        })
    })
    .await
}
