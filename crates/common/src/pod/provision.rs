//! The provisioner of a service whose account of NATS imports the stream that it listens to: the same
//! program, run as `orders provision`, say, with a user of its own in the account that holds the stream.
//! It makes the service's queue group there and keeps it right, which the service itself has no right to.

use std::process::ExitCode;

use axum::Router;
use bus::{Listener, provision};
use clap::Parser;

use super::{
    config::{self, NatsSettings, PodSettings},
    http::Http,
    process::{self, Pod},
};

/// The word after the program's name.
const WORD: &str = "provision";

/// Makes the service's queue group in another service's account of NATS, and keeps it right.
///
/// For services that have an account each. Every setting is an option or an environment variable. A bad
/// one ends the process with status 64 and its name, before anything is opened.
#[derive(Debug, Clone, Parser)]
#[command(
    version,
    after_help = "Exit status: 0 after SIGINT or SIGTERM and an orderly stop, 1 after a failure, \
                  64 when a setting is bad."
)]
pub struct Settings {
    /// Who and where the process is.
    #[command(flatten)]
    pub pod: PodSettings,

    /// The NATS that holds the stream, with a user of the account that it is in.
    #[command(flatten)]
    pub nats: NatsSettings,
}

/// What the process's arguments ask for, if that is to provision.
#[must_use]
pub fn asked() -> Option<Settings> {
    let mut arguments = std::env::args_os();
    let program = arguments.next()?;
    (arguments.next()? == WORD).then(|| config::parse_from([program].into_iter().chain(arguments)))
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
