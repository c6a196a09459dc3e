//! The HTTP server and its middleware, against clients that mean well, clients that mean harm, and clients that
//! are there when it stops. No database is needed for that.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod answers;
mod attacks;
mod balancer;
mod client;
mod limits;
mod memory;
mod service;
mod stopping;
