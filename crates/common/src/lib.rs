//! What the services share: the events, the bus that carries them, and how a process behaves in
//! a pod. Nothing else: a type that one service uses stays in that service.
//!
//! - [`events`]: the contract. One file an event family.
//! - [`bus`]: how an event leaves a transaction and takes effect once elsewhere.
//! - [`pod`]: client id, configuration, telemetry, health, shutdown, the HTTP stack.

pub mod bus;
pub mod events;
pub mod pod;
