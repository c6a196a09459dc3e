//! The chassis of a process in a pod: its identity, its configuration, its health and its shutdown.
//! A [`Service`](service::Service) combines them.

pub mod auth;
pub mod bearer;
pub mod body;
pub mod config;
pub mod database;
pub mod group_commit;
pub mod health;
pub mod hosts;
pub mod http;
pub mod idempotency;
mod migrations;
pub mod openapi;
pub mod operations;
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
