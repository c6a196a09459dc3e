//! The service `tickets`: takes `POST /api/tickets`, stores the ticket and its event in one
//! transaction of its own Postgres, and answers 201. The event is published later, from the
//! outbox, so that a POST works while NATS is away.
//!
//! - [`http`]: the API. What came in is parsed there into types that cannot be wrong.
//! - [`ticket`]: those types.
//! - [`group_commit`]: tickets that arrive together are committed together.
//! - [`listener`]: what it does with an event about an order.
//! - [`sellers`]: who may store a ticket, and change it.
//! - [`store`]: all SQL.

pub mod group_commit;
pub mod http;
pub mod listener;
pub mod sellers;
pub mod store;
pub mod ticket;

use std::{future::Future, process::ExitCode};

use clap::Parser;
use common::{
    bus::{self, Delivery, Lease, Listener, Relay},
    events::ticket::TICKETS,
    pod::{
        auth::{AuthSettings, Caller},
        config::{self, DatabaseSettings, EX_USAGE, NatsSettings, PodSettings},
        database,
        http::Http,
        idempotency,
        process::{self, Pod},
        provision,
    },
};
use listener::OrderListener;
use sellers::Sellers;
use tracing::warn;

/// Keeps tickets: takes them over HTTP, stores them in Postgres, tells of them on NATS, and hears there
/// which of them are ordered.
///
/// Every setting is an option or an environment variable. A bad one ends the process with status
/// 64 and its name, before anything is opened.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "tickets",
    version,
    after_help = "Exit status: 0 after SIGINT or SIGTERM and an orderly stop, 1 after a failure, \
                  64 when a setting is bad.\n\n`tickets provision` makes its queue group, where each \
                  service has a NATS account of its own; see its --help.\n\nThe API describes itself at /openapi.json, for \
                  people at /docs."
)]
pub struct Settings {
    /// Who and where the process is.
    #[command(flatten)]
    pub pod: PodSettings,

    /// Its Postgres.
    #[command(flatten)]
    pub database: DatabaseSettings,

    /// The NATS that it publishes to and listens to.
    #[command(flatten)]
    pub nats: NatsSettings,

    /// How its sellers say who they are.
    #[command(flatten)]
    pub auth: AuthSettings,

    /// Whose every new ticket is while AUTH is off.
    #[arg(
        long,
        env,
        value_name = "DEFAULT_SELLER",
        default_value = "local-seller",
        help_heading = "Callers"
    )]
    pub default_seller: Caller,

    /// Who may change tickets without a seller, which a release before sellers has stored. Whoever
    /// changes one is its seller from then on. Default: nobody; while AUTH is off, the default seller.
    #[arg(long, env, value_name = "SELLER_OF_OLD_TICKETS", help_heading = "Callers")]
    pub seller_of_old_tickets: Option<Caller>,
}

/// The service from its environment to its exit status.
pub async fn main() -> ExitCode {
    match provision::asked() {
        Some(settings) => provision::run::<OrderListener>(settings).await,
        None => run(config::parse()).await,
    }
}

/// The service from its settings to its exit status.
pub async fn run(settings: Settings) -> ExitCode {
    let Settings { auth, default_seller, seller_of_old_tickets, .. } = &settings;
    let sellers = match Sellers::new(auth, default_seller, seller_of_old_tickets.as_ref()) {
        Ok(sellers) => sellers,
        Err(reason) => {
            eprintln!("error: {reason}");
            return ExitCode::from(u8::try_from(EX_USAGE).unwrap_or(1));
        }
    };
    process::run(settings.pod.clone(), |pod| start(settings, sellers, pod)).await
}

/// Opens what the service needs and spawns its tasks. Returns what closes the rest after them.
async fn start(
    settings: Settings,
    sellers: Sellers,
    pod: Pod,
) -> anyhow::Result<impl FnOnce() -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>>> {
    let http = Http::bind(&settings.pod)?;
    let bus = pod.connect(&settings.nats).await?;
    let lease = Lease::take(&bus, &pod.shutdown, "tickets", &[OrderListener::QUEUE_GROUP]).await?;
    let pool = database::connect(&settings.database, &pod.client_id).await?;
    let migration_pool = database::migration_pool(&pool);
    bus::migrate(&migration_pool).await?;
    store::migrate(&migration_pool).await?;
    migration_pool.close().await;

    let (relay, wake) = Relay::new(bus.clone(), pool.clone(), &[&TICKETS]);
    pod.shutdown.spawn("relay", relay.run(pod.shutdown.clone()));

    let watch = database::watch(pool.clone(), pod.health.clone(), pod.shutdown.clone());
    pod.shutdown.spawn("database watch", watch);
    let keys = idempotency::prune(pool.clone(), pod.shutdown.clone());
    pod.shutdown.spawn("idempotency keys", keys);
    // No gate: POSTs work without NATS.
    Delivery::new(
        OrderListener::new(wake.clone()),
        bus.clone(),
        pool.clone(),
        pod.shutdown.clone(),
    )
    .spawn(lease.clone());

    sellers.auth.spawn(&pod.health, &pod.shutdown);
    if let Some(seller) = sellers.auth.always() {
        warn!(%seller, "AUTH is off: every ticket is this seller's");
    }
    let api = http::Api::start(pool.clone(), wake, sellers, &pod.shutdown);
    http.spawn(http::router(api, &settings.pod.http.middleware()), &pod)?;
    Ok(move || {
        Box::pin(async move {
            lease.release().await;
            bus.close().await;
            database::close(pool).await;
        }) as _
    })
}
