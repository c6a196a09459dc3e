//! The delivery loop: a member of a queue group takes what is there, has it take effect, and
//! answers for it. One batch is worked on while the next one arrives.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use sqlx::PgPool;
use tokio::time::sleep;
use tracing::{debug, info};

use super::{
    connection::Bus,
    effect::Workshop,
    listener::Listener,
    session::Session,
    topology::{self, TopologyError},
    upkeep,
};
use crate::{
    events::EventSet,
    pod::{client_id::ClientId, health::Health, lease::Lease, process::Pod, shutdown::Shutdown},
};

/// The longest pause after failures of the server.
pub(super) const MAX_BACKOFF: Duration = Duration::from_secs(1);
/// The gate of readiness that opens when the member has joined its group for the first time. It stays
/// open: a NATS that is away keeps no API from answering (ADR 12).
const GATE: &str = "queue group";

/// A member of a queue group.
pub struct Delivery<L: Listener> {
    shop: Arc<Workshop<L>>,
    health: Option<Health>,
    shutdown: Shutdown,
}

impl<L: Listener> Delivery<L> {
    /// A member with this process's client id. Spawns nothing.
    pub fn new(listener: L, bus: Bus, pool: PgPool, pod: &Pod) -> Self {
        let client_id: ClientId = pod.client_id.clone();
        Self {
            shop: Arc::new(Workshop { listener, pool, bus, client_id, in_vain: Mutex::default() }),
            health: Some(pod.health.clone()),
            shutdown: pod.shutdown.clone(),
        }
    }

    /// Has the process be ready before it is in its group, for a service whose requests need none of
    /// the group's events.
    #[must_use]
    pub fn without_gate(self) -> Self {
        Self { health: None, ..self }
    }

    /// Spawns the member's tasks: the delivery loop, which begins once the client id is held, and
    /// the one that looks after redriven dead letters and old inbox rows.
    pub fn spawn(self, lease: Lease) {
        if let Some(health) = &self.health {
            health.not_ready(GATE, "not in the group yet");
        }
        let shutdown = self.shutdown.clone();
        shutdown.spawn("dead letters", upkeep::tend(self.shop.clone(), self.shutdown.clone()));
        shutdown.clone().spawn("delivery", async move {
            tokio::select! {
                () = shutdown.begun() => Ok(()),
                () = lease.held() => self.run().await,
            }
        });
    }

    /// Takes part in the group until the process stops.
    async fn run(self) -> anyhow::Result<()> {
        let stream = <L::Events as EventSet>::STREAM;
        let bus = self.shop.bus.clone();
        let mut backoff = Duration::ZERO;
        while !self.shutdown.has_begun() {
            let epoch = tokio::select! {
                () = self.shutdown.begun() => break,
                epoch = bus.connected() => epoch,
            };
            let ended = match self.prepare(stream).await {
                Ok(()) => self.session(epoch).await,
                Err(error) => Err(error),
            };
            match ended {
                Ok(()) => backoff = Duration::ZERO,
                Err(error) => {
                    if let Some(TopologyError::Drift { .. }) = error.downcast_ref() {
                        return Err(error);
                    }
                    backoff = (backoff * 2).clamp(Duration::from_millis(50), MAX_BACKOFF);
                    debug!(
                        error = format!("{error:#}"),
                        retry.ms = backoff.as_millis(),
                        "cannot pull yet"
                    );
                    tokio::select! {
                        () = self.shutdown.begun() => break,
                        () = sleep(backoff.mul_f64(rand::random_range(0.5..=1.0))) => {}
                    }
                }
            }
        }
        Ok(())
    }

    async fn prepare(&self, stream: &crate::events::Stream) -> anyhow::Result<()> {
        let bus = &self.shop.bus;
        topology::stream(bus, stream).await?;
        topology::queue_group(bus, L::QUEUE_GROUP, stream, <L::Events as EventSet>::SUBJECTS)
            .await?;
        Ok(())
    }

    async fn session(&self, epoch: u64) -> anyhow::Result<()> {
        let mut session = Session::open(self.shop.clone(), epoch).await?;
        if let Some(health) = &self.health {
            health.ready(GATE);
        }
        info!(queue.group = L::QUEUE_GROUP, client.id = %self.shop.client_id, "joined the queue group");
        let ended = session.run(&self.shutdown).await;
        session.give_everything_back().await;
        ended
    }
}
