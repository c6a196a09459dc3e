//! The services of the system, one entry each. The command starts them from this table, and `up`, `status`
//! and the tests follow it; a test checks the Dockerfile, `skaffold.yaml` and the manifests against it.

use std::{ffi::OsString, process::ExitCode, sync::OnceLock};

use common::events::asyncapi::ServiceEvents;
use futures::{FutureExt, future::LocalBoxFuture};

/// A service.
#[derive(Debug)]
pub struct Service {
    /// The name of its subcommand, database, image, Deployment and Kubernetes Service.
    pub name: &'static str,
    /// The events that it publishes and receives.
    pub events: ServiceEvents,
    /// The tables whose rows `status` counts.
    pub tables: &'static [&'static str],
    /// How many replicas `up` starts.
    pub replicas: Replicas,
    /// Whether a process counts as up only once it has joined its queue group.
    pub ready_once_joined: bool,
    /// The service's program, from its arguments to its exit status.
    pub main: fn(Vec<OsString>) -> LocalBoxFuture<'static, ExitCode>,
}

/// How many replicas of a service `up` starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replicas {
    /// One.
    One,
    /// As many as `--replicas` says.
    AsAsked,
}

/// Every service, in the order of their HTTP ports.
pub const SERVICES: &[Service] = &[
    Service {
        name: "tickets",
        events: tickets::EVENTS,
        tables: &["tickets"],
        replicas: Replicas::One,
        ready_once_joined: false,
        main: |arguments| tickets::main(arguments).boxed_local(),
    },
    Service {
        name: "orders",
        events: orders::EVENTS,
        tables: &["orders", "tickets"],
        replicas: Replicas::AsAsked,
        ready_once_joined: true,
        main: |arguments| orders::main(arguments).boxed_local(),
    },
];

/// The services that a program adds to the table.
static ADDED: OnceLock<Vec<Service>> = OnceLock::new();

/// Every service that this program knows, in the order of their HTTP ports.
pub fn all() -> impl Iterator<Item = &'static Service> {
    SERVICES.iter().chain(ADDED.get().into_iter().flatten())
}

/// Adds services to the table. Call it once, before anything reads the table.
pub(crate) fn add(services: Vec<Service>) {
    let _ = ADDED.set(services);
}

impl Service {
    /// The service with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        all().find(|service| service.name == name)
    }

    /// How many replicas run if `--replicas` is `asked`.
    #[must_use]
    pub fn replicas(&self, asked: u16) -> u16 {
        match self.replicas {
            Replicas::One => 1,
            Replicas::AsAsked => asked,
        }
    }
}

/// How many processes all services have together if `--replicas` is `asked`.
#[must_use]
pub fn processes(asked: u16) -> u16 {
    all().map(|service| service.replicas(asked)).sum()
}
