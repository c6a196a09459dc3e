//! The provisioner of a service whose account of NATS imports the stream that it listens to: the same
//! program, run as `orders provision`, say, with a user of its own in the account that holds the stream.
//! It makes the service's queue group there and keeps it right, which the service itself has no right to.

use std::process::ExitCode;

use axum::Router;
use bus::{Listener, provision};
use clap::Parser;

use super::{
    config::{NatsSettings, PodSettings},
    http::Http,
    process::{self, Pod},
};

/// The word after the program's name that asks for it.
pub(super) const WORD: &str = "provision";

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
    /// Who and where the process is.
    #[command(flatten)]
    pub pod: PodSettings,

    /// The NATS that holds the stream, with a user of the account that it is in.
    #[command(flatten)]
    pub nats: NatsSettings,
}

/// The provisioner of this listener's queue group, from its settings to its exit status.
pub async fn run<L: Listener>(mut settings: Settings) -> ExitCode {
    // It is in the stream's own account.
    settings.nats.nats_imported.clear();
    process::run(settings.pod.clone(), async |pod: Pod| {
        let http = Http::bind(&settings.pod)?;
        let bus = pod.connect(&settings.nats).await?;
        pod.ready_once_provided(provision::spawn::<L>(&bus, &pod.shutdown));
        // Probes and metrics alone.
        http.spawn(Router::new(), &pod)?;
        Ok(async move || bus.close().await)
    })
    .await
}
