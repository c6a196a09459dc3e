//! How a process behaves in a pod: who it is, how it is told what to do, how it says how it is,
//! and how it ends. A [`Service`](service::Service) puts all of it together.

pub mod auth;
pub mod body;
pub mod config;
pub mod database;
pub mod health;
pub mod http;
pub mod idempotency;
mod migrations;
pub mod openapi;
pub mod page;
pub mod periodic;
pub mod problem;
pub mod process;
pub mod provision;
mod repeated_keys;
pub mod responses;
pub mod secret;
pub mod service;
pub mod telemetry;

pub use migrations::migrate;
