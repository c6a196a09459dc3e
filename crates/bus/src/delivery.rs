//! The delivery loop: a member of a queue group takes what is there, has it take effect, and
//! answers for it. One batch is worked on while the next one arrives.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{sync::watch, time::sleep};
use tracing::{debug, info};

use crate::{
    connection::Bus,
    effect::Workshop,
    listener::Listener,
    pool::Pool,
    session::Session,
    topology::{self, Refusal},
    upkeep,
};
use crate::{event::EventSet, lease::Lease, shutdown::Shutdown};

/// The longest pause after failures of the server.
pub(crate) const MAX_BACKOFF: Duration = Duration::from_secs(1);
/// A member of a queue group.
pub struct Delivery<L: Listener> {
    shop: Arc<Workshop<L>>,
    joined: watch::Sender<bool>,
    shutdown: Shutdown,
}

impl<L: Listener> Delivery<L> {
    /// A member with this process's client id. Spawns nothing.
    pub fn new(listener: L, bus: Bus, pool: Pool, shutdown: Shutdown) -> Self {
        let client_id = bus.client_id.clone();
        Self {
            shop: Arc::new(Workshop { listener, pool, bus, client_id, in_vain: Mutex::default() }),
            joined: watch::Sender::new(false),
            shutdown,
        }
    }

    /// Spawns the member's tasks: the delivery loop, which begins once the client id is held, and
    /// the one that looks after redriven dead letters and old inbox rows.
    ///
    /// Returns whether the member has joined its group, to watch. Once `true` it stays so: a NATS
    /// that is away later does not change what the process can answer.
    pub fn spawn(self, lease: Lease) -> watch::Receiver<bool> {
        let joined = self.joined.subscribe();
        let shutdown = self.shutdown.clone();
        shutdown.spawn("dead letters", upkeep::tend(self.shop.clone(), self.shutdown.clone()));
        shutdown.clone().spawn("delivery", async move {
            tokio::select! {
                () = shutdown.begun() => Ok(()),
                () = lease.held() => self.run().await,
            }
        });
        joined
    }

    /// Takes part in the group until the process stops.
    async fn run(self) -> anyhow::Result<()> {
        let stream = <L::Events as EventSet>::STREAM;
        let bus = self.shop.bus.clone();
        let (mut backoff, mut refusal) = (Duration::ZERO, Refusal::of(L::QUEUE_GROUP));
        while !self.shutdown.has_begun() {
            let epoch = tokio::select! {
                () = self.shutdown.begun() => break,
                epoch = bus.connected() => epoch,
            };
            let ended = match self.prepare(stream).await {
                Ok(()) => {
                    refusal.end();
                    self.session(epoch).await
                }
                Err(error) => Err(error),
            };
            match ended {
                Ok(()) => backoff = Duration::ZERO,
                Err(error) => {
                    if let Some(pause) = refusal.note(&error) {
                        tokio::select! {
                            () = self.shutdown.begun() => break,
                            () = sleep(pause) => continue,
                        }
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

    async fn prepare(&self, stream: &crate::event::Stream) -> anyhow::Result<()> {
        let bus = &self.shop.bus;
        topology::stream(bus, stream).await?;
        topology::queue_group(bus, L::QUEUE_GROUP, stream, <L::Events as EventSet>::SUBJECTS)
            .await?;
        Ok(())
    }

    async fn session(&self, epoch: u64) -> anyhow::Result<()> {
        let mut session = Session::open(self.shop.clone(), epoch).await?;
        self.joined.send_replace(true);
        info!(queue.group = L::QUEUE_GROUP, client.id = %self.shop.client_id, "joined the queue group");
        let ended = session.run(&self.shutdown).await;
        session.give_everything_back().await;
        ended
    }
}
