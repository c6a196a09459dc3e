//! The service `orders`: reserves tickets for buyers, takes their payments, and tells of both on NATS;
//! takes part in the queue group `orders-service`, to keep a copy of each ticket in its own Postgres.
//! Runs as any number of replicas.
//!
//! - [`http`]: the API.
//! - [`limit`]: how many tickets one buyer may have reserved at a time.
//! - [`order`]: what can become of an order.
//! - [`payment`]: what is asked of a payment provider, and a fake one.
//! - [`expiry`], [`capture`]: what is done about orders that nobody asks for.
//! - [`listener`]: what it does with an event about a ticket.
//! - [`store`]: all SQL.

pub mod capture;
pub mod expiry;
pub mod http;
pub mod limit;
pub mod listener;
pub mod order;
pub mod payment;
pub mod store;

use std::{future::Future, pin::Pin, process::ExitCode, sync::Arc, time::Duration};

use clap::Parser;
use common::{
    bus::{self, Delivery, Lease, Listener, Relay},
    events::order::ORDERS,
    pod::{
        auth::{Auth, AuthSettings, Caller},
        config::{self, DatabaseSettings, EX_USAGE, NatsSettings, PodSettings},
        database,
        http::Http,
        idempotency,
        process::{self, Pod},
        provision,
    },
};

use http::Api;
use limit::Limit;
use listener::TicketListener;
use payment::{FakeProvider, Provider};
use tracing::warn;

/// The longest reservation: within it, a ticket that nobody pays for is nobody else's.
const LONGEST_RESERVATION: Duration = Duration::from_hours(7 * 24);

/// Reserves tickets for buyers and takes their payments; knows the tickets from the events of the
/// tickets service.
///
/// Every setting is an option or an environment variable. A bad one ends the process with status
/// 64 and its name, before anything is opened.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "orders",
    version,
    after_help = "Exit status: 0 after SIGINT or SIGTERM and an orderly stop, 1 after a failure \
                  (also when the client id is another process's), 64 when a setting is bad.\n\n\
                  `orders provision` makes its queue group, where each service has a NATS account of \
                  its own; see its --help."
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

    /// How its buyers say who they are.
    #[command(flatten)]
    pub auth: AuthSettings,

    /// Whose every order is while AUTH is off.
    #[arg(
        long,
        env,
        value_name = "DEFAULT_BUYER",
        default_value = "local-buyer",
        help_heading = "Callers"
    )]
    pub default_buyer: Caller,

    /// How long a ticket is reserved for who ordered it, such as 15m; at most 7days.
    #[arg(
        long,
        env,
        value_name = "RESERVATION_TIME",
        default_value = "15m",
        value_parser = reservation_time,
        help_heading = "Process"
    )]
    pub reservation_time: Duration,

    /// How many tickets one buyer may have reserved at a time, 1-1000, or off. Default: 10; while AUTH is
    /// off, when everybody is the same buyer, off.
    #[arg(long, env, value_name = "RESERVATIONS_PER_BUYER", help_heading = "Process")]
    pub reservations_per_buyer: Option<Limit>,
}

/// The service from its environment to its exit status.
pub async fn main() -> ExitCode {
    match provision::asked() {
        Some(settings) => provision::run::<TicketListener>(settings).await,
        None => run(config::parse()).await,
    }
}

/// The service from its settings to its exit status.
pub async fn run(settings: Settings) -> ExitCode {
    let auth = match Auth::new(&settings.auth, &settings.default_buyer) {
        Ok(auth) => auth,
        Err(reason) => {
            eprintln!("error: {reason}");
            return ExitCode::from(u8::try_from(EX_USAGE).unwrap_or(1));
        }
    };
    process::run(settings.pod.clone(), |pod| start(settings, auth, pod)).await
}

fn reservation_time(text: &str) -> Result<Duration, String> {
    let time = config::duration(text).map_err(|error| error.to_string())?;
    if time.is_zero() || time > LONGEST_RESERVATION {
        return Err("it must be above 0s and at most 7days".to_owned());
    }
    Ok(time)
}

/// Opens what the service needs and spawns its tasks. Returns what closes the rest after them.
async fn start(
    settings: Settings,
    auth: Auth,
    pod: Pod,
) -> anyhow::Result<impl FnOnce() -> Pin<Box<dyn Future<Output = ()> + Send>>> {
    let http = Http::bind(&settings.pod)?;
    let bus = pod.connect(&settings.nats).await?;
    // Before the database: a duplicate should be turned away within a second or two.
    let lease = Lease::take(&bus, &pod.shutdown, "orders", &[TicketListener::QUEUE_GROUP]).await?;
    let pool = database::connect(&settings.database, &pod.client_id).await?;
    let migration_pool = database::migration_pool(&pool);
    bus::migrate(&migration_pool).await?;
    store::migrate(&migration_pool).await?;
    migration_pool.close().await;

    let watch = database::watch(pool.clone(), pod.health.clone(), pod.shutdown.clone());
    pod.shutdown.spawn("database watch", watch);
    let (relay, wake) = Relay::new(bus.clone(), pool.clone(), &[&ORDERS]);
    pod.shutdown.spawn("relay", relay.run(pod.shutdown.clone()));
    let keys = idempotency::prune(pool.clone(), pod.shutdown.clone());
    pod.shutdown.spawn("idempotency keys", keys);
    let expiry = expiry::run(pool.clone(), wake.clone(), pod.shutdown.clone());
    pod.shutdown.spawn("expiry", expiry);
    let provider: Arc<dyn Provider> = Arc::new(FakeProvider);
    let captures = capture::run(pool.clone(), provider.clone(), pod.shutdown.clone());
    pod.shutdown.spawn("captures", captures);
    let delivery = Delivery::new(TicketListener, bus.clone(), pool.clone(), pod.shutdown.clone());
    pod.ready_once_joined(lease.clone(), delivery.spawn(lease.clone()));

    auth.spawn(&pod.health, &pod.shutdown);
    if let Some(buyer) = auth.always() {
        warn!(%buyer, "AUTH is off: every order is this buyer's");
    }
    let reservation = settings.reservation_time;
    let unless_said = if auth.always().is_some() { Limit::Off } else { Limit::DEFAULT };
    let limit = settings.reservations_per_buyer.unwrap_or(unless_said);
    let api = Api { pool: pool.clone(), wake, auth, provider, reservation, limit };
    http.spawn(http::router(api, &settings.pod.http.middleware()), &pod)?;
    Ok(move || {
        Box::pin(async move {
            lease.release().await;
            bus.close().await;
            database::close(pool).await;
        }) as _
    })
}
