//! The service `orders`: takes part in the queue group `orders-service`, keeps a copy of each
//! ticket in its own Postgres, and shows it. Runs as any number of replicas.
//!
//! - [`listener`]: what it does with an event.
//! - [`store`]: all SQL.
//! - [`http`]: the API.

pub mod http;
pub mod listener;
pub mod store;

use std::{future::Future, num::NonZeroUsize, pin::Pin, process::ExitCode};

use clap::Parser;
use common::{
    bus::{self, connection::Bus, delivery::Delivery, listener::Listener},
    pod::{
        config::{self, DatabaseSettings, NatsSettings, PodSettings},
        database, health,
        lease::Lease,
        process::{self, Pod},
    },
};

use listener::Tickets;

/// Keeps its own copy of every ticket, from the events of the tickets service.
///
/// Every setting is an option or an environment variable. A bad one ends the process with status
/// 64 and its name, before anything is opened.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "orders",
    version,
    after_help = "Exit status: 0 after SIGINT or SIGTERM and an orderly stop, 1 after a failure \
                  (also when the client id is another process's), 64 when a setting is bad."
)]
pub struct Settings {
    /// Who and where the process is.
    #[command(flatten)]
    pub pod: PodSettings,

    /// Its Postgres.
    #[command(flatten)]
    pub database: DatabaseSettings,

    /// The NATS that it listens to.
    #[command(flatten)]
    pub nats: NatsSettings,

    /// How many requests may run at once; a further one is answered 503 with Retry-After.
    #[arg(
        long,
        env,
        value_name = "HTTP_MAX_CONCURRENT",
        default_value = "512",
        help_heading = "Process"
    )]
    pub http_max_concurrent: NonZeroUsize,
}

/// The service from its environment to its exit status.
pub async fn main() -> ExitCode {
    run(config::parse()).await
}

/// The service from its settings to its exit status.
pub async fn run(settings: Settings) -> ExitCode {
    process::run(settings.pod.clone(), |pod| start(settings, pod)).await
}

/// Opens what the service needs and spawns its tasks. Returns what closes the rest after them.
async fn start(
    settings: Settings,
    pod: Pod,
) -> anyhow::Result<impl FnOnce() -> Pin<Box<dyn Future<Output = ()> + Send>>> {
    let listener = common::pod::http::bind(settings.pod.http_address).await?;
    let bus = Bus::connect(&settings.nats, &pod).await?;
    // Before the database: a duplicate should be turned away within a second or two.
    let lease = Lease::take(&bus, &pod, "orders", &[Tickets::QUEUE_GROUP]).await?;
    let pool = database::connect(&settings.database, &pod.client_id).await?;
    let unhurried = database::unhurried(&pool);
    bus::migrate(&unhurried).await?;
    store::migrate(&unhurried).await?;
    unhurried.close().await;

    let watch = database::watch(pool.clone(), pod.health.clone(), pod.shutdown.clone());
    pod.shutdown.spawn("database watch", watch);
    Delivery::new(Tickets, bus.clone(), pool.clone(), &pod).spawn(lease.clone());

    // Outside the stack's bound: a process that is busy is alive, and says so.
    let router = http::router(pool.clone(), settings.http_max_concurrent.get())
        .merge(health::routes(pod.health, pod.metrics));
    pod.shutdown.spawn("http", common::pod::http::serve(listener, router, pod.shutdown.clone()));
    Ok(move || {
        Box::pin(async move {
            lease.release().await;
            bus.close().await;
            database::close(pool).await;
        }) as _
    })
}
