//! The provisioner of a service whose NATS account imports the stream that it listens to: the same
//! program, run for example as `orders provision`, with its own user in the account that holds the
//! stream. It creates the service's queue group there and maintains it, which the service itself
//! may not do.

use std::process::ExitCode;

use axum::Router;
use bus::{Listener, provision};
use clap::Parser;

use super::{
    config::{NatsSettings, PodSettings},
    http::Http,
    process::{self, Pod},
};

/// The subcommand's name.
pub(super) const SUBCOMMAND: &str = "provision";

/// Creates the service's queue group in another service's NATS account, and keeps its configuration correct.
///
/// Needed where each service has its own account. Every setting is an option or an environment variable. An
/// invalid setting stops the process at startup with status 64 and a message that names it.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "provision",
    version,
    after_help = "Exit status: 0 after SIGINT or SIGTERM and a clean shutdown, 1 after a failure, \
                  64 if a setting is invalid."
)]
pub struct Settings {
    /// The process.
    #[command(flatten)]
    pub pod: PodSettings,

    /// The NATS that holds the stream, with a user of the stream's account.
    #[command(flatten)]
    pub nats: NatsSettings,
}

/// Runs the provisioner of this listener's queue group. Returns its exit status.
pub async fn run<L: Listener>(mut settings: Settings) -> ExitCode {
    // The provisioner connects to the stream's own account.
    settings.nats.nats_imported.clear();
    process::run("provisioner", settings.pod.clone(), async |pod: Pod| {
        let http = Http::bind(&settings.pod)?;
        let bus = pod.connect(&settings.nats).await?;
        pod.ready_once_provided(provision::spawn::<L>(&bus, &pod.shutdown));
        // Only probes and metrics.
        http.spawn(Router::new(), &pod)?;
        Ok(async move || bus.close().await)
    })
    .await
}
