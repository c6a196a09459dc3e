//! How fast the system is, beside limits that are measured in the same run: machines differ and
//! are noisy, ratios are less so. `cargo bench --bench system`; one part with `-- post`,
//! `-- drain`, `-- delay` or `-- order`; with a snapshot held by `-- snapshot`; on more and more history with `-- history`, of other sizes with
//! `-- history 1000 1000000`.
//!
//! Everything is real: servers that sync to the disk, services as processes of a release build that
//! log warnings only.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on should panic")]

mod client;
mod delay;
mod drain;
mod history;
mod order;
mod post;
mod snapshot;
mod system;

use std::env;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    match &arguments[..] {
        [part, address] if part == post::BARE_SERVER => return post::bare_server(address).await,
        _ => {}
    }
    let wanted = |part: &str| arguments.is_empty() || arguments.iter().any(|a| a == part);
    println!("{}", system::machine());
    if wanted("post") {
        post::run().await;
    }
    if wanted("drain") {
        drain::run().await;
    }
    if wanted("delay") {
        delay::run().await;
    }
    if wanted("order") {
        order::run().await;
    }
    // Only when asked for, because they take long: two minutes, and ten million rows to be made.
    if arguments.iter().any(|a| a == "snapshot") {
        snapshot::run().await;
    }
    if arguments.iter().any(|a| a == "history") {
        let sizes: Vec<i64> = arguments.iter().filter_map(|a| a.parse().ok()).collect();
        history::run(&sizes).await;
    }
}
