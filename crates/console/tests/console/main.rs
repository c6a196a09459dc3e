//! The console as a process, beside a real nats-server.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod acting;
mod replicas;
mod streaming;
mod world;
