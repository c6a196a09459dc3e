//! Tests the system's promises on the whole system: the services as processes, real servers and real
//! failures. Each test has its own system.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod agreement;
mod attacks;
mod buyers;
mod callers;
mod clusters;
mod command;
mod console;
mod crashes;
mod dashboard;
mod dead_letters;
mod doubles;
mod frozen;
mod harness;
mod identities;
mod links;
mod listening;
mod logs;
mod manifests;
mod members;
mod newest;
mod operations;
mod orders;
mod outages;
mod page;
mod postgres_tls;
mod race;
mod releases;
mod rights;
mod secrets;
mod services;
mod stopping;
mod tools;
mod traces;
mod up;
