//! A service: its parts, and the one order in which they start and stop.
//!
//! Start: the HTTP port, the connection to NATS, the lease on the client id, the database and its
//! migrations, the relay, the service's own tasks, the member of the queue group, the API. The port comes
//! first because a port in use is the most common mistake on a laptop; the lease comes before the database
//! because a duplicate should exit within a second or two.
//!
//! Stop: requests, deliveries and the service's own tasks first, then the relay, so that it publishes
//! the events of the last requests and deliveries; then the lease is released, and the connections are closed.
//!
//! `crates/notifications` is a complete example.

use std::{ffi::OsString, process::ExitCode};

use anyhow::Context;
use axum::Router;
use bus::{Bus, Delivery, Lease, Listener, Pool, Readiness, Relay, Shutdown, Stream, Wake};
use clap::{Args, Parser};
use futures::future::BoxFuture;
use sqlx::PgPool;
use tokio::sync::watch;
use tracing::warn;

use super::{
    auth::Auth,
    config::{self, DatabaseSettings, NatsSettings, OperationsSettings, PodSettings, bad_setting},
    database,
    health::Health,
    http::{Http, MiddlewareSettings},
    idempotency,
    operations::{self, Operations},
    process::{self, Pod},
    provision,
};

/// The settings that every service has.
#[derive(Debug, Clone, Args)]
pub struct ServiceSettings {
    /// The process: its name, its logs, its HTTP port.
    #[command(flatten)]
    pub pod: PodSettings,

    /// Its database.
    #[command(flatten)]
    pub database: DatabaseSettings,

    /// The NATS that carries its events.
    #[command(flatten)]
    pub nats: NatsSettings,

    /// Its operations API.
    #[command(flatten)]
    pub operations: OperationsSettings,
}

impl From<&PodSettings> for MiddlewareSettings {
    fn from(settings: &PodSettings) -> Self {
        Self {
            concurrent: settings.http.http_max_concurrent.get(),
            origins: settings.http.cors_origins.clone(),
            client_id: settings.client_id(),
        }
    }
}

/// State that the parts of a running service share. Clones share it too.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Its database.
    pub pool: Pool,
    /// Wakes the relay after a commit.
    pub wake: Wake,
    /// Its readiness.
    pub health: Health,
    /// Its shutdown.
    pub shutdown: Shutdown,
    /// The settings of its API's middleware.
    pub middleware: MiddlewareSettings,
}

/// A service before it runs.
pub struct Service {
    name: &'static str,
    settings: ServiceSettings,
    streams: &'static [&'static Stream],
    migrate: Option<Migrate>,
    member: Option<Member>,
    ready_once_joined: bool,
    auth: Option<Auth>,
    tasks: Vec<(&'static str, Task)>,
}

type Migrate = Box<dyn FnOnce(PgPool) -> BoxFuture<'static, anyhow::Result<()>>>;
type Task = Box<dyn FnOnce(Parts) -> BoxFuture<'static, anyhow::Result<()>>>;
type Join = Box<dyn FnOnce(&Parts, Bus, Lease) -> watch::Receiver<Readiness>>;

/// Its part in a queue group.
struct Member {
    queue_group: &'static str,
    spawn: Join,
}

impl Service {
    /// A service of this name, so far without any parts.
    #[must_use]
    pub fn new(name: &'static str, settings: ServiceSettings) -> Self {
        Self {
            name,
            settings,
            streams: &[],
            migrate: None,
            member: None,
            ready_once_joined: false,
            auth: None,
            tasks: Vec::new(),
        }
    }

    /// Migrates the service's own tables at each start, after those of the chassis. Statements have no time
    /// limit there, and replicas take turns.
    #[must_use]
    pub fn migrates<F>(mut self, migrate: impl FnOnce(PgPool) -> F + 'static) -> Self
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.migrate = Some(Box::new(|pool| Box::pin(migrate(pool))));
        self
    }

    /// Publishes the events that the service stores for these streams.
    #[must_use]
    pub fn publishes(mut self, streams: &'static [&'static Stream]) -> Self {
        self.streams = streams;
        self
    }

    /// Takes part in the listener's queue group.
    #[must_use]
    pub fn listens<L: Listener>(mut self, listener: impl FnOnce(&Parts) -> L + 'static) -> Self {
        let spawn = Box::new(|parts: &Parts, bus, lease| {
            let (pool, shutdown) = (parts.pool.clone(), parts.shutdown.clone());
            Delivery::new(listener(parts), bus, pool, shutdown).spawn(lease)
        });
        self.member = Some(Member { queue_group: L::QUEUE_GROUP, spawn });
        self
    }

    /// Makes the service ready only once it has joined its queue group: for an API that needs the data of the
    /// group's events. Without this, the API serves while NATS is down.
    #[must_use]
    pub fn ready_once_joined(mut self) -> Self {
        self.ready_once_joined = true;
        self
    }

    /// Authenticates callers: fetches the keys of the token issuer, if there is one.
    #[must_use]
    pub fn authenticates(mut self, auth: &Auth) -> Self {
        self.auth = Some(auth.clone());
        self
    }

    /// Also runs a task until the process stops. If it fails, the process ends. The name is for logs.
    #[must_use]
    pub fn runs<F>(mut self, name: &'static str, task: impl FnOnce(Parts) -> F + 'static) -> Self
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.tasks.push((name, Box::new(|parts| Box::pin(task(parts)))));
        self
    }

    /// Runs the service with this API until the process is asked to stop. Probes and metrics are added to
    /// the API, unless they have a port of their own.
    ///
    /// Exits 0 after a signal and a clean shutdown, 1 after a failure or if work had to be dropped.
    pub async fn serve(self, api: impl FnOnce(&Parts) -> Router) -> ExitCode {
        let settings = &self.settings;
        if let Err(reason) = operations::check(&settings.operations, &settings.pod.http) {
            return bad_setting(reason);
        }
        let (name, settings) = (self.name, settings.pod.clone());
        // The future of a whole start is large.
        Box::pin(process::run(name, settings, async |pod| self.start(pod, api).await)).await
    }

    /// Starts everything. Returns a function that closes the rest once all tasks have ended.
    async fn start(
        self,
        pod: Pod,
        api: impl FnOnce(&Parts) -> Router,
    ) -> anyhow::Result<impl AsyncFnOnce()> {
        let http = Http::bind(&self.settings.pod)?;
        let bus = pod.connect(&self.settings.nats).await?;
        let groups: Vec<_> = self.member.iter().map(|member| member.queue_group).collect();
        let lease = pod.take_lease(&bus, self.name, &groups).await?;
        let pool = database::connect(&self.settings.database, &pod.client_id).await?;
        migrate(&pool, self.migrate).await?;

        let (relay, wake) = Relay::new(bus.clone(), pool.clone(), self.streams);
        relay.spawn(&pod.last);
        let parts = Parts {
            pool: pool.clone(),
            wake,
            health: pod.health.clone(),
            shutdown: pod.shutdown.clone(),
            middleware: (&self.settings.pod).into(),
        };
        let watch = database::watch(pool.clone(), pod.health.clone(), pod.shutdown.clone());
        pod.shutdown.spawn("database watch", watch);
        let audit = operations::prune(pool.clone(), pod.shutdown.clone());
        pod.shutdown.spawn("audit log", audit);
        let operations = Operations {
            service: self.name,
            client_id: pod.client_id.clone(),
            streams: self.streams,
            queue_groups: groups,
            pool: pool.clone(),
            bus: bus.clone(),
        };
        let http =
            operations::serve(http, operations, &self.settings.operations, &self.settings.pod.http);
        let keys = idempotency::prune(pool.clone(), pod.shutdown.clone());
        pod.shutdown.spawn("idempotency keys", keys);
        for (name, task) in self.tasks {
            pod.shutdown.spawn(name, task(parts.clone()));
        }
        if let Some(member) = self.member {
            let joined = (member.spawn)(&parts, bus.clone(), lease.clone());
            if self.ready_once_joined {
                pod.ready_once_joined(lease.clone(), joined);
            }
        }
        if let Some(auth) = self.auth {
            auth.spawn(&pod.health, &pod.shutdown);
            if let Some(caller) = auth.fixed_caller() {
                warn!(notice = "routine", %caller, "AUTH is off: every request is made by this caller");
            }
        }
        http.spawn(api(&parts), &pod)?;
        Ok(async move || {
            lease.release().await;
            bus.close().await;
            database::close(pool).await;
        })
    }
}

/// Held while migrating, so that replicas take turns: `create table if not exists` alone can collide. The number
/// is arbitrary but must be unique in the database.
const MIGRATION_LOCK: i64 = 0x0073_6572_7669_6365;

/// Brings the tables of the chassis and those of the service up to date.
async fn migrate(pool: &Pool, own: Option<Migrate>) -> anyhow::Result<()> {
    // A pool of one connection, which holds the lock until it is closed.
    let pool = database::migration_pool(pool);
    sqlx::query("select pg_advisory_lock($1)").bind(MIGRATION_LOCK).execute(&pool).await?;
    bus::migrate(&pool).await?;
    super::migrate(&pool).await?;
    if let Some(own) = own {
        own(pool.clone()).await.context("cannot migrate the service's tables")?;
    }
    pool.close().await;
    Ok(())
}

/// A service's program: runs the service with the settings of the arguments (the program's name first) and the
/// environment, or, with the subcommand `provision`, the provisioner of its queue group.
pub async fn main<S: Parser, L: Listener>(
    arguments: impl IntoIterator<Item = OsString>,
    run: impl AsyncFnOnce(S) -> ExitCode,
) -> ExitCode {
    let mut arguments: Vec<_> = arguments.into_iter().collect();
    if arguments.get(1).is_some_and(|word| word == provision::SUBCOMMAND) {
        // One name, so that usage and errors show how it was called.
        let word = arguments.remove(1);
        arguments[0].push(" ");
        arguments[0].push(word);
        return Box::pin(provision::run::<L>(config::parse_from(arguments))).await;
    }
    Box::pin(run(config::parse_from(arguments))).await
}
