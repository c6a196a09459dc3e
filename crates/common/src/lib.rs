//! What the services share: the events, and the chassis of a process that runs in a pod. A type
//! used by a single service stays in that service. The bus that carries the events is a separate
//! library, [`bus`].
//!
//! - [`mod@columns`]: maps a struct's fields to the columns of a table.
//! - [`events`]: the contract. One file per event family.
//! - [`pod`]: configuration, telemetry, health, the HTTP middleware.

#[macro_use]
pub mod columns;
pub mod events;
pub mod pod;

pub use bus::{self, event_set};
