//! The service `tickets`: creates tickets on `POST /api/tickets`, stores each with its event in one
//! transaction in its own Postgres, and answers 201. The outbox publishes the event later, so a
//! POST works while NATS is unavailable.
//!
//! - [`http`]: the API. It parses requests into types that are valid by construction.
//! - [`ticket`]: those types.
//! - [`group_commit`]: stores tickets that arrive together in one transaction.
//! - [`listener`]: handles events about orders.
//! - [`sellers`]: who may create and change tickets.
//! - [`store`]: all SQL.

mod events;
pub mod group_commit;
pub mod http;
pub mod listener;
pub mod sellers;
pub mod store;
pub mod ticket;

use std::{ffi::OsString, process::ExitCode};

use clap::Parser;
use common::{
    events::ticket::TICKETS,
    pod::{
        auth::{AuthSettings, Caller},
        config,
        service::{self, Service, ServiceSettings},
    },
};
pub use events::EVENTS;

use listener::OrderListener;
use sellers::Sellers;

/// Stores tickets: an HTTP API on Postgres. Publishes every change to NATS, and locks tickets that are
/// ordered.
///
/// Every setting is an option or an environment variable. An invalid setting stops the process at startup
/// with status 64 and a message that names it.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "tickets",
    version,
    after_help = "Exit status: 0 after SIGINT or SIGTERM and a clean shutdown, 1 after a failure, \
                  64 if a setting is invalid.\n\n`tickets provision` creates the service's queue group, for \
                  deployments where each service has its own NATS account; see its --help.\n\nThe API is \
                  documented at /docs, and as OpenAPI at /openapi.json."
)]
pub struct Settings {
    /// The settings that every service has.
    #[command(flatten)]
    pub service: ServiceSettings,

    /// How sellers authenticate.
    #[command(flatten)]
    pub auth: AuthSettings,

    /// The seller of every new ticket while AUTH is off.
    #[arg(
        long,
        env,
        value_name = "DEFAULT_SELLER",
        default_value = "local-seller",
        help_heading = "Callers"
    )]
    pub default_seller: Caller,

    /// The caller who may change tickets that have no seller, because a release without sellers created them. A
    /// change makes them the ticket's seller. Default: nobody; while AUTH is off, the default seller.
    #[arg(long, env, value_name = "SELLER_OF_OLD_TICKETS", help_heading = "Callers")]
    pub seller_of_old_tickets: Option<Caller>,
}

/// Runs the program with its arguments (its own name first) and environment. Returns its exit status.
pub async fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    service::main::<Settings, OrderListener>(arguments, run).await
}

/// Runs the service with these settings. Returns its exit status.
pub async fn run(settings: Settings) -> ExitCode {
    let Settings { service, auth, default_seller, seller_of_old_tickets } = settings;
    let sellers = match Sellers::new(&auth, &default_seller, seller_of_old_tickets.as_ref()) {
        Ok(sellers) => sellers,
        Err(reason) => return config::bad_setting(reason),
    };
    Service::new("tickets", service)
        .migrates(async |pool| store::migrate(&pool).await)
        .publishes(&[&TICKETS])
        .listens(|parts| OrderListener::new(parts.wake.clone()))
        .authenticates(&sellers.auth)
        .serve(|parts| {
            let (pool, wake) = (parts.pool.clone(), parts.wake.clone());
            let api = http::Api::start(pool, wake, sellers, &parts.shutdown);
            http::router(api, &parts.middleware)
        })
        .await
}
