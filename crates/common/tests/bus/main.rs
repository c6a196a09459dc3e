//! The bus's promises to a service, tested with the tests' own listeners against real servers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod accounts;
mod dead_letters;
mod edits;
mod keys;
mod lease;
mod links;
mod locks;
mod member;
mod operations;
mod operations_events;
mod third_service;
mod topology;
