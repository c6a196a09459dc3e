//! The HTTP server and its middleware, against honest clients, hostile clients, and clients that
//! are connected when it stops. No database is needed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod answers;
mod attacks;
mod balancer;
mod client;
mod limits;
mod memory;
mod service;
mod stopping;
