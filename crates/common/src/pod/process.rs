//! The common part of every service's `main`: logs, metrics, signals, and a clean shutdown.

use std::{
    process::ExitCode,
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::Context;
use bus::{Bus, LeaseError, Readiness, lease::Lease};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{sync::watch, time::Instant};
use tracing::{error, info};

use super::{
    config::{NatsSettings, PodSettings, bad_setting},
    health::Health,
    telemetry::{self, Traces},
};
use bus::{ClientId, Shutdown};

/// How long the tasks of a failed start may take to end.
const FAILED_START_GRACE: Duration = Duration::from_secs(3);

/// The readiness gate of a process's queue group.
const GATE: &str = "queue group";

/// State that a service's parts share: its name, its health, and its shutdown.
#[derive(Debug, Clone)]
pub struct Pod {
    /// The process's name.
    pub client_id: ClientId,
    /// The node that it runs on; empty when unknown.
    pub node: String,
    /// Its readiness.
    pub health: Health,
    /// Its shutdown: tasks spawned on this are asked to stop first.
    pub shutdown: Shutdown,
    /// The last stage of its shutdown, for what the other tasks need until they have ended: the relay, which
    /// publishes the events that they stored.
    pub last: Shutdown,
    /// Its metrics, for `/metrics`.
    pub metrics: PrometheusHandle,
    /// The lease on its client id, once it is taken.
    lease: Arc<OnceLock<Lease>>,
}

impl Pod {
    /// Connects to NATS under the process's client id.
    ///
    /// # Errors
    /// As [`Bus::connect`].
    pub async fn connect(&self, settings: &NatsSettings) -> anyhow::Result<Bus> {
        Ok(Bus::connect(&settings.options(&self.client_id, &self.node), &self.last).await?)
    }

    /// Takes the lease on the process's client id, as [`Lease::take`]. A start that fails after that releases it,
    /// so that the process does not appear to run.
    ///
    /// # Errors
    /// As [`Lease::take`].
    pub async fn take_lease(
        &self,
        bus: &Bus,
        service: &str,
        queue_groups: &[&str],
    ) -> Result<Lease, LeaseError> {
        let lease = Lease::take(bus, &self.shutdown, service, queue_groups).await?;
        let _ = self.lease.set(lease.clone());
        Ok(lease)
    }

    /// Makes the process ready only once it has joined its queue group, for a service whose API needs the data of
    /// the group's events. Until then, `/readyz` shows what it waits for, such as its client id.
    pub fn ready_once_joined(&self, lease: Lease, joined: watch::Receiver<Readiness>) {
        let (health, shutdown) = (self.health.clone(), self.shutdown.clone());
        health.not_ready(GATE, "not in the group yet");
        self.shutdown.spawn("queue group gate", async move {
            let waits = async {
                let holder = lease.waiting().await;
                let since = holder.since;
                let reason = format!(
                    "the client id has been held since {since} by a process that does not answer; \
                     waiting until its lease expires"
                );
                health.not_ready(GATE, reason);
                std::future::pending::<()>().await;
            };
            tokio::select! {
                // In this order: the client id's reason for waiting is closer to the cause.
                biased;
                () = shutdown.begun() => {}
                () = follow(joined, &health) => {}
                () = waits => {}
            }
        });
    }

    /// Makes the process ready only once the queue group that it provides exists.
    pub fn ready_once_provided(&self, provided: watch::Receiver<Readiness>) {
        let (health, shutdown) = (self.health.clone(), self.shutdown.clone());
        health.not_ready(GATE, "not created yet");
        self.shutdown.spawn("queue group gate", async move {
            tokio::select! {
                () = shutdown.begun() => {}
                () = follow(provided, &health) => {}
            }
        });
    }
}

/// Shows what the gate waits for until it opens.
async fn follow(mut readiness: watch::Receiver<Readiness>, health: &Health) {
    loop {
        let known = readiness.borrow_and_update().clone();
        match known {
            Readiness::Ready => return health.ready(GATE),
            Readiness::Waiting(why) => health.not_ready(GATE, why),
        }
        if readiness.changed().await.is_err() {
            return;
        }
    }
}

/// Runs a service of this name: `start` opens what it needs, spawns its tasks on the pod's [`Shutdown`] and
/// returns; then this waits for a signal or a failed task, stops everything in two stages within the grace
/// period, and finally calls the function that `start` returned, to close what the tasks shared.
///
/// Exits 0 after a signal and a clean shutdown, 1 after a failure or if work had to be dropped, 64 if a setting is
/// invalid.
pub async fn run<Close: AsyncFnOnce()>(
    name: &str,
    settings: PodSettings,
    start: impl AsyncFnOnce(Pod) -> anyhow::Result<Close>,
) -> ExitCode {
    let traces = match observe(name, &settings) {
        Ok(traces) => traces,
        Err(error) => return bad_setting(format_args!("{error:#}")),
    };
    let ended = run_logged(settings, start).await;
    if let Some(traces) = traces {
        traces.end().await;
    }
    match ended {
        Ok(true) => {
            info!(notice = "routine", "stopped");
            ExitCode::SUCCESS
        }
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            error!(error = format!("{error:#}"), "process failed");
            ExitCode::FAILURE
        }
    }
}

/// Starts logging, and sending traces if they are enabled.
fn observe(name: &str, settings: &PodSettings) -> anyhow::Result<Option<Traces>> {
    let instance = settings.client_id();
    let traces = settings.otel_exporter_otlp_endpoint.as_deref();
    // By the specification, an empty variable counts as unset.
    let traces = traces.filter(|endpoint| !endpoint.is_empty() && !settings.otel_sdk_disabled);
    let traces =
        traces.map(|endpoint| Traces::to(endpoint, name, instance.as_str())).transpose()?;
    telemetry::logs(&settings.log, settings.log_format, traces.as_ref())?;
    Ok(traces)
}

async fn run_logged<Close: AsyncFnOnce()>(
    settings: PodSettings,
    start: impl AsyncFnOnce(Pod) -> anyhow::Result<Close>,
) -> anyhow::Result<bool> {
    let (shutdown, mut reason) = Shutdown::new();
    let (last, lease) = (shutdown.next_stage(), Arc::new(OnceLock::new()));
    let pod = Pod {
        client_id: settings.client_id(),
        node: settings.node_name,
        health: Health::default(),
        shutdown: shutdown.clone(),
        last: last.clone(),
        metrics: telemetry::metrics()?,
        lease: lease.clone(),
    };
    // Names the process to readers of the metrics, who know only its address.
    let (id, node) = (pod.client_id.to_string(), pod.node.clone());
    metrics::gauge!("process_info", "client_id" => id, "node" => node).set(1);
    let health = pod.health.clone();
    let (metrics, stop) = (pod.metrics.clone(), shutdown.clone());
    shutdown.spawn("metrics upkeep", telemetry::upkeep(metrics, stop));
    info!(notice = "routine", client.id = %pod.client_id, "starting");
    let started = tokio::select! {
        started = start(pod) => started.context("cannot start"),
        stopped = reason.wait() => {
            give_up(&shutdown, &last, lease.get()).await;
            return Ok(stopped.map(|()| true)?);
        }
    };
    let close = match started {
        Ok(close) => close,
        Err(error) => {
            give_up(&shutdown, &last, lease.get()).await;
            return Err(error);
        }
    };
    let ended = reason.wait().await;
    health.not_ready("process", "stopping");
    let end = Instant::now() + settings.shutdown_grace;
    shutdown.begin();
    let mut orderly = shutdown.finish(settings.shutdown_grace).await;
    last.begin();
    // After dropping work, it does not wait again.
    if orderly {
        orderly = last.finish(end.saturating_duration_since(Instant::now())).await;
    }
    close().await;
    Ok(ended.map(|()| orderly)?)
}

/// Ends a start that failed or that a signal interrupted. It holds nothing yet but the client id.
async fn give_up(shutdown: &Shutdown, last: &Shutdown, lease: Option<&Lease>) {
    shutdown.begin();
    // After this, nothing renews the lease.
    shutdown.finish(FAILED_START_GRACE).await;
    if let Some(lease) = lease {
        lease.release().await;
    }
    last.begin();
}
