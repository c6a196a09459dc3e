//! The delivery loop: a member of a queue group takes what is there, has it take effect, and
//! answers for it. One batch is worked on while the next one arrives.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tracing::{debug, info};

use crate::{
    connection::Bus,
    effect::MemberContext,
    listener::Listener,
    pool::Pool,
    session::Session,
    upkeep,
    watch::{Readiness, Watch},
};
use crate::{lease::Lease, shutdown::Shutdown};

/// The longest pause after failures of the server.
pub(crate) const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// A member of a queue group.
pub struct Delivery<L: Listener> {
    context: Arc<MemberContext<L>>,
    joined: watch::Sender<Readiness>,
    shutdown: Shutdown,
}

impl<L: Listener> Delivery<L> {
    /// A member with this process's client id. Spawns nothing.
    pub fn new(listener: L, bus: Bus, pool: Pool, shutdown: Shutdown) -> Self {
        let client_id = bus.client_id.clone();
        Self {
            context: Arc::new(MemberContext {
                listener,
                pool,
                bus,
                client_id,
                interrupted_attempts: Mutex::default(),
            }),
            joined: watch::Sender::new(Readiness::Waiting("not in the group yet".to_owned())),
            shutdown,
        }
    }

    /// Spawns the member's tasks: the delivery loop, which begins once the client id is held, and
    /// the one that looks after redriven dead letters and old inbox rows.
    ///
    /// Returns whether the member has joined its group, and if not, what it waits for, to watch.
    pub fn spawn(self, lease: Lease) -> watch::Receiver<Readiness> {
        let joined = self.joined.subscribe();
        let shutdown = self.shutdown.clone();
        shutdown.spawn("dead letters", upkeep::tend(self.context.clone(), self.shutdown.clone()));
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
        let bus = self.context.bus.clone();
        let mut watch = Watch::of_member::<L>(bus.clone());
        let (mut backoff, mut connection) = (Duration::ZERO, 0);
        while !self.shutdown.has_begun() {
            let epoch = tokio::select! {
                () = self.shutdown.begun() => break,
                epoch = bus.connected() => epoch,
            };
            if epoch != connection {
                watch.forget();
                connection = epoch;
            }
            let begun = Instant::now();
            let ended = match watch.look().await {
                Ok(()) => self.session(epoch, &mut watch).await,
                Err(error) => Err(error),
            };
            let pause = match ended {
                Ok(()) if begun.elapsed() > MAX_BACKOFF => {
                    backoff = Duration::ZERO;
                    continue;
                }
                // What ends at once would end again.
                Ok(()) => None,
                Err(error) => {
                    debug!(error = format!("{error:#}"), "cannot pull yet");
                    self.waits_for(&error);
                    watch.note(&error)
                }
            };
            backoff = (backoff * 2).clamp(Duration::from_millis(50), MAX_BACKOFF);
            let pause = pause.unwrap_or_else(|| backoff.mul_f64(rand::random_range(0.5..=1.0)));
            tokio::select! {
                () = self.shutdown.begun() => break,
                () = sleep(pause) => {}
            }
        }
        Ok(())
    }

    /// Says why the member has not joined yet, unless it has.
    fn waits_for(&self, error: &anyhow::Error) {
        self.joined.send_if_modified(|joined| {
            let why = Readiness::Waiting(format!("not in the group yet: {error:#}"));
            let news = *joined != Readiness::Ready && *joined != why;
            if news {
                *joined = why;
            }
            news
        });
    }

    async fn session(&self, epoch: u64, watch: &mut Watch) -> anyhow::Result<()> {
        let mut session = Session::open(self.context.clone(), epoch).await?;
        self.joined.send_replace(Readiness::Ready);
        info!(queue.group = L::QUEUE_GROUP, client.id = %self.context.client_id, "joined the queue group");
        let ended = tokio::select! {
            ended = session.run(&self.shutdown) => ended,
            never = watch.go_on() => match never {},
        };
        session.give_everything_back().await;
        ended
    }
}
