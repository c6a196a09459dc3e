//! How fast the system is, compared with limits measured in the same run, because ratios depend less on
//! the machine than absolute numbers. `cargo bench --bench system`; one part with `-- post`,
//! `-- drain`, `-- delay` or `-- order`.
//!
//! Run only if named: `-- slow-disk` (needs `strace`), `-- snapshot` (holds a snapshot for two minutes),
//! `-- history` (up to ten million rows; `-- history 1000 1000000` for other sizes).
//!
//! Everything is real: servers that sync to the disk, and services as separate processes of a release
//! build that log warnings only.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on should panic")]

mod client;
mod delay;
mod drain;
mod history;
mod order;
mod post;
mod slow_disk;
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
    // These take long or need more than the others.
    if arguments.iter().any(|a| a == "slow-disk") {
        slow_disk::run().await;
    }
    if arguments.iter().any(|a| a == "snapshot") {
        snapshot::run().await;
    }
    if arguments.iter().any(|a| a == "history") {
        let sizes: Vec<i64> = arguments.iter().filter_map(|a| a.parse().ok()).collect();
        history::run(&sizes).await;
    }
}
