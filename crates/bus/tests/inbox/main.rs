//! The inbox and the delivery of events, against real servers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod copies;
mod example;
mod id_conflicts;
mod late;
mod masses;
mod migration;
mod operators;
mod plans;
mod releases;
mod ring;
mod slow;
mod world;
