//! The command `ticketing`: the whole system on one machine, and the tools to try it with.
//!
//! - `up`: everything, from nothing.
//! - `publish`, `listen`: a publisher and a listener to play with.
//! - `status`, `dead_letters`: what is going on, and what needs a person.
//! - `running`: how the tools find what `up` has started.

mod client;
mod dead_letters;
mod listen;
mod nkey;
mod out;
mod publish;
mod running;
mod status;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use common::{
    bus::{shown_json, without_passwords},
    pod::{config, provision},
};

/// The whole system on one machine, and the tools to try it with.
///
/// Without a subcommand it brings up NATS, Postgres, the tickets service and three replicas of the
/// orders service, and shows what they do until Ctrl-C.
#[derive(Debug, Parser)]
#[command(
    name = "ticketing",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Exit status: 0 when all went well, 1 after a failure, 64 when an argument is bad."
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    up: up::Options,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Brings everything up (the default).
    Up(up::Options),
    /// Publishes events of your own, past the tickets service.
    Publish(publish::Options),
    /// Listens to events and prints them.
    Listen(listen::Options),
    /// Shows streams, queue groups and their members, and what waits.
    Status(status::Options),
    /// Looks after events that could not take effect.
    DeadLetters(dead_letters::Options),
    /// Makes a key pair for a user of NATS: the seed in a file, the public key as output.
    Nkey(nkey::Options),
    /// The tickets service, as `up` starts it.
    #[command(hide = true)]
    Tickets(tickets::Settings),
    /// A replica of the orders service, as `up` starts it.
    #[command(hide = true)]
    Orders(orders::Settings),
    /// The console, as `up` starts it.
    #[command(hide = true)]
    Console(ticketing_console::Settings),
    /// What makes the queue group of the tickets service in another's account of NATS.
    #[command(hide = true)]
    TicketsProvision(provision::Settings),
    /// What makes the queue group of the orders service in another's account of NATS.
    #[command(hide = true)]
    OrdersProvision(provision::Settings),
}

/// The command from its arguments to its exit status.
pub async fn main() -> ExitCode {
    let cli: Cli = config::parse();
    let done = match cli.command.unwrap_or(Command::Up(cli.up)) {
        Command::Tickets(settings) => return tickets::run(settings).await,
        Command::Orders(settings) => return orders::run(settings).await,
        Command::Console(settings) => return ticketing_console::run(settings).await,
        Command::TicketsProvision(settings) => {
            return provision::run::<tickets::listener::OrderListener>(settings).await;
        }
        Command::OrdersProvision(settings) => {
            return provision::run::<orders::listener::TicketListener>(settings).await;
        }
        Command::Nkey(options) => nkey::run(&options),
        Command::Up(options) => up::run(options).await,
        Command::Publish(options) => publish::run(options).await,
        Command::Listen(options) => listen::run(options).await,
        Command::Status(options) => status::run(options).await,
        Command::DeadLetters(options) => dead_letters::run(options).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", shown_json(&without_passwords(&format!("{error:#}"))));
            ExitCode::FAILURE
        }
    }
}
