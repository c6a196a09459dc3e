//! The command `ticketing`: the whole system on one machine, and the tools to try it with.

use std::process::ExitCode;

use clap::Parser;
use common::pod::config;

/// The whole system on one machine, and the tools to try it with.
#[derive(Debug, Parser)]
#[command(name = "ticketing", version)]
enum Cli {
    /// The tickets service, as `up` starts it.
    #[command(hide = true)]
    Tickets(tickets::Settings),
    /// A replica of the orders service, as `up` starts it.
    #[command(hide = true)]
    Orders(orders::Settings),
}

/// The command from its arguments to its exit status.
pub async fn main() -> ExitCode {
    match config::parse() {
        Cli::Tickets(settings) => tickets::run(settings).await,
        Cli::Orders(settings) => orders::run(settings).await,
    }
}
