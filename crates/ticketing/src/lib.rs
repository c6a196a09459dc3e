//! The command `ticketing`: runs the whole system on one machine, with tools to experiment with it.
//!
//! - `up`: starts everything.
//! - `publish`, `listen`: a publisher and a listener to experiment with.
//! - `asyncapi`: the description of all events.
//! - `status`, `dead_letters`: the state of everything, and the events that need a decision.
//! - `running`: how the tools find the system that `up` started.
//! - [`services`]: the table of services.

mod client;
mod dead_letters;
mod listen;
mod nkey;
mod out;
mod postgres;
mod publish;
mod running;
pub mod services;
mod status;
mod up;

use std::{env, process::ExitCode};

use clap::{Parser, Subcommand};
use common::{
    bus::{shown_json, without_passwords},
    events::asyncapi,
    pod::config,
};

use services::Service;

/// Runs the whole system on one machine, with tools to experiment with it.
///
/// Without a subcommand, starts NATS, Postgres, the tickets service and three replicas of the
/// orders service, and shows what they do until Ctrl-C.
#[derive(Debug, Parser)]
#[command(
    name = "ticketing",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Exit status: 0 on success, 1 after a failure, 64 if an argument is invalid."
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    up: up::Options,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts the whole system (the default).
    Up(Box<up::Options>),
    /// Publishes events directly, bypassing the tickets service.
    Publish(publish::Options),
    /// Listens to events and prints them.
    Listen(listen::Options),
    /// Shows streams, queue groups, their members, and backlogs.
    Status(status::Options),
    /// Lists, redrives or discards dead letters: events that could not be processed.
    DeadLetters(dead_letters::Options),
    /// Prints the description of every service's events: an AsyncAPI document, in JSON.
    Asyncapi,
    /// Creates a key pair (NKey) for a NATS user: writes the seed to a file and prints the public key.
    Nkey(nkey::Options),
    /// Runs the console, as `up` does.
    #[command(hide = true)]
    Console(Box<ticketing_console::Settings>),
}

/// The command with additional services of your own: `up` creates their databases and starts them on the next
/// ports, and the tools know them. `tests/third_service` shows how.
pub async fn main_with(services: Vec<Service>) -> ExitCode {
    services::add(services);
    Box::pin(main()).await
}

/// The command, from its arguments to its exit status. The name of a service as the first argument runs that
/// service with the rest, as `up` does.
pub async fn main() -> ExitCode {
    asyncapi::add(services::all().map(|service| service.events));
    let arguments: Vec<_> = env::args_os().collect();
    let name = arguments.get(1).and_then(|name| name.to_str());
    if let Some(service) = name.and_then(Service::named) {
        return (service.main)(arguments.into_iter().skip(1).collect()).await;
    }
    let cli: Cli = config::parse();
    let done = match cli.command.unwrap_or(Command::Up(Box::new(cli.up))) {
        Command::Console(settings) => return Box::pin(ticketing_console::run(*settings)).await,
        Command::Asyncapi => {
            out::say!("{:#}", asyncapi::document(&[]));
            Ok(())
        }
        Command::Nkey(options) => nkey::run(&options),
        Command::Up(options) => Box::pin(up::run(*options)).await,
        Command::Publish(options) => publish::run(options).await,
        Command::Listen(options) => listen::run(options).await,
        Command::Status(options) => Box::pin(status::run(options)).await,
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
