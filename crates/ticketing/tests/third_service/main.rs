//! A third service, added by its entry in the table of services: it gets a database and a port, and every tool
//! shows it. This file is also the program under test.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod beside;
mod cluster;
#[allow(dead_code, reason = "used in part")]
#[path = "../system/identities.rs"]
mod identities;

use std::{env, path::Path, process::ExitCode};

use embedded::process::{Child, Command};
use futures::{FutureExt, future::LocalBoxFuture};
use ticketing::services::{Replicas, Service};

/// Set for the program, and for the processes that it starts.
const IS_PROGRAM: &str = "WITH_A_THIRD_SERVICE";
/// A test, and the name by which it can be selected.
type Test = (&'static str, fn() -> LocalBoxFuture<'static, ()>);
const TESTS: [Test; 2] = [
    ("a_third_service_is_started_shown_and_listened_to", || {
        beside::a_third_service_is_started_shown_and_listened_to().boxed_local()
    }),
    ("a_third_service_runs_as_its_manifests_say_with_the_rights_of_its_users", || {
        cluster::a_third_service_runs_as_its_manifests_say_with_the_rights_of_its_users()
            .boxed_local()
    }),
];

/// Its entry in the table.
fn third() -> Service {
    Service {
        name: "notifications",
        events: notifications::EVENTS,
        tables: &["notifications"],
        replicas: Replicas::One,
        ready_once_joined: false,
        main: |arguments| notifications::main(arguments).boxed_local(),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    if env::var_os(IS_PROGRAM).is_some() {
        return ticketing::main_with(vec![third()]).await;
    }
    let wanted: Vec<_> = env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    for (name, test) in TESTS {
        if wanted.is_empty() || wanted.iter().any(|word| name.contains(word)) {
            test().await;
            println!("test {name} ... ok");
        }
    }
    ExitCode::SUCCESS
}

fn command(arguments: &[&str]) -> Command {
    Command::new(env::current_exe().unwrap()).args(arguments).env(IS_PROGRAM, "yes")
}

fn program(folder: &Path, arguments: &[&str]) -> Child {
    command(arguments).current_dir(folder).with_input().piped().spawn().unwrap()
}
