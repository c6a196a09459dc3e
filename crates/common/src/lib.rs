//! What the services share: the events, and how a process behaves in a pod. Nothing else: a type that
//! one service uses stays in that service. The bus that carries the events is a library of its own,
//! [`bus`].
//!
//! - [`mod@columns`]: a struct's fields as the columns of a table.
//! - [`events`]: the contract. One file an event family.
//! - [`pod`]: configuration, telemetry, health, the HTTP middleware.

#[macro_use]
pub mod columns;
pub mod events;
pub mod pod;

pub use bus::{self, event_set};
