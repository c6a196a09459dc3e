//! The HTTP contract of `orders`, request by request, against a real Postgres.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod buyers;
mod changing;
mod contract;
mod expiring;
mod issuer;
mod limit;
mod listing;
mod paying;
mod provider;
mod races;
mod reserving;
mod service;
use service::tokens;
