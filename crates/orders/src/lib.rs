//! The service `orders`: reserves tickets for buyers, takes payments, and publishes an event for
//! each change. It belongs to the queue group `orders-service` and keeps a copy of every ticket in
//! its own Postgres from the events. Any number of replicas may run.
//!
//! - [`http`]: the API.
//! - [`limit`]: how many tickets a buyer may have reserved at a time.
//! - [`order`]: the state machine of an order.
//! - [`payment`]: the interface of a payment provider, and a fake one.
//! - [`expiry`], [`capture`]: background work on orders.
//! - [`reservations`]: reserves tickets for many requests in one transaction.
//! - [`listener`]: handles events about tickets.
//! - [`store`]: all SQL.

pub mod capture;
mod events;
pub mod expiry;
pub mod http;
pub mod limit;
pub mod listener;
pub mod order;
pub mod payment;
pub mod reservations;
pub mod store;

use std::{ffi::OsString, process::ExitCode, sync::Arc, time::Duration};

use clap::Parser;
use common::{
    events::order::ORDERS,
    pod::{
        auth::{Auth, AuthSettings, Caller},
        config,
        service::{self, Service, ServiceSettings},
    },
};

pub use events::EVENTS;

use http::Api;
use limit::Limit;
use listener::TicketListener;
use payment::{FakeProvider, Provider};
use reservations::Reservations;

/// The longest reservation, in which an unpaid ticket is unavailable to everyone else.
const LONGEST_RESERVATION: Duration = Duration::from_hours(7 * 24);

/// Reserves tickets for buyers and takes payments: an HTTP API on Postgres. Receives tickets as events of
/// the tickets service.
///
/// Every setting is an option or an environment variable. An invalid setting stops the process at startup
/// with status 64 and a message that names it.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "orders",
    version,
    after_help = "Exit status: 0 after SIGINT or SIGTERM and a clean shutdown, 1 after a failure \
                  (including a client id that is in use), 64 if a setting is invalid.\n\n\
                  `orders provision` creates the service's queue group, for deployments where each service \
                  has its own NATS account; see its --help.\n\nThe API is documented at /docs, and as \
                  OpenAPI at /openapi.json."
)]
pub struct Settings {
    /// The settings that every service has.
    #[command(flatten)]
    pub service: ServiceSettings,

    /// How buyers authenticate.
    #[command(flatten)]
    pub auth: AuthSettings,

    /// The buyer of every order while AUTH is off.
    #[arg(
        long,
        env,
        value_name = "DEFAULT_BUYER",
        default_value = "local-buyer",
        help_heading = "Callers"
    )]
    pub default_buyer: Caller,

    /// How long a ticket stays reserved for its buyer, such as 15m; at most 7days.
    #[arg(
        long,
        env,
        value_name = "RESERVATION_TIME",
        default_value = "15m",
        value_parser = reservation_time,
        help_heading = "Process"
    )]
    pub reservation_time: Duration,

    /// How many tickets a buyer may have reserved at a time: 1 to 1000, or off. Default: 10; off while AUTH is
    /// off, because then everyone is the same buyer.
    #[arg(long, env, value_name = "RESERVATIONS_PER_BUYER", help_heading = "Process")]
    pub reservations_per_buyer: Option<Limit>,
}

/// Runs the program with its arguments (its own name first) and environment. Returns its exit status.
pub async fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    service::main::<Settings, TicketListener>(arguments, run).await
}

/// Runs the service with these settings. Returns its exit status.
pub async fn run(settings: Settings) -> ExitCode {
    let auth = match Auth::new(&settings.auth, &settings.default_buyer) {
        Ok(auth) => auth,
        Err(reason) => return config::bad_setting(reason),
    };
    let reservation_time = settings.reservation_time;
    let by_default = if auth.fixed_caller().is_some() { Limit::Off } else { Limit::DEFAULT };
    let limit = settings.reservations_per_buyer.unwrap_or(by_default);
    let provider: Arc<dyn Provider> = Arc::new(FakeProvider);
    let captures = provider.clone();
    Service::new("orders", settings.service)
        .migrates(async |pool| store::migrate(&pool).await)
        .publishes(&[&ORDERS])
        .listens(|_| TicketListener)
        .ready_once_joined()
        .runs("expiry", |parts| expiry::run(parts.pool, parts.wake, parts.shutdown))
        .runs("captures", |parts| capture::run(parts.pool, captures, parts.shutdown))
        .authenticates(&auth)
        .serve(|parts| {
            let (pool, wake) = (parts.pool.clone(), parts.wake.clone());
            let reservations = Reservations { time: reservation_time, limit };
            let api = Api::start(pool, wake, auth, provider, reservations, &parts.shutdown);
            http::router(api, &parts.middleware)
        })
        .await
}

fn reservation_time(text: &str) -> Result<Duration, String> {
    let time = config::duration(text).map_err(|error| error.to_string())?;
    if time.is_zero() || time > LONGEST_RESERVATION {
        let days = LONGEST_RESERVATION.as_secs() / (24 * 3600);
        return Err(format!("it must be above 0s and at most {days}days"));
    }
    Ok(time)
}
