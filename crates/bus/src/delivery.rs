//! The delivery loop: a member of a queue group takes what is there, has it take effect, and
//! answers for it. One batch is worked on while the next one arrives.

use std::{
    convert::Infallible,
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
    effect::Workshop,
    listener::Listener,
    pool::Pool,
    session::Session,
    topology::{self, Group, Refusal, TopologyError},
    upkeep,
};
use crate::{
    event::{EventSet, Stream},
    lease::Lease,
    shutdown::Shutdown,
};

/// The longest pause after failures of the server.
pub(crate) const MAX_BACKOFF: Duration = Duration::from_secs(1);
/// How often a member looks after its group's consumer: what an operator edits is found within 10 s.
const LOOK_EVERY: Duration = Duration::from_secs(5);

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
        let bus = self.shop.bus.clone();
        let mut watch = Watch::of::<L>(bus.clone());
        let (mut backoff, mut connection) = (Duration::ZERO, 0);
        while !self.shutdown.has_begun() {
            let epoch = tokio::select! {
                () = self.shutdown.begun() => break,
                epoch = bus.connected() => epoch,
            };
            if epoch != connection {
                watch.group.forget();
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
                    watch.refused.note(&error)
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

    async fn session(&self, epoch: u64, watch: &mut Watch) -> anyhow::Result<()> {
        let mut session = Session::open(self.shop.clone(), epoch).await?;
        self.joined.send_replace(true);
        info!(queue.group = L::QUEUE_GROUP, client.id = %self.shop.client_id, "joined the queue group");
        let ended = tokio::select! {
            ended = session.run(&self.shutdown) => ended,
            never = watch.go_on() => match never {},
        };
        session.give_everything_back().await;
        ended
    }
}

/// What a member looks after while it takes part: the group's consumer, and the stream behind it.
struct Watch {
    bus: Bus,
    stream: &'static Stream,
    group: Group,
    /// The stream is refused. What it holds can be taken all the same.
    stream_refused: Refusal,
    /// The group's consumer is refused.
    refused: Refusal,
}

impl Watch {
    fn of<L: Listener>(bus: Bus) -> Self {
        let stream = <L::Events as EventSet>::STREAM;
        let group = Group::new(L::QUEUE_GROUP, stream, <L::Events as EventSet>::SUBJECTS);
        let (stream_refused, refused) = (Refusal::of(stream.name), Refusal::of(L::QUEUE_GROUP));
        Self { bus, stream, group, stream_refused, refused }
    }

    /// Sets right what an operator may have edited.
    async fn look(&mut self) -> anyhow::Result<()> {
        let state = match topology::stream(&self.bus, self.stream).await {
            Ok(state) => {
                self.stream_refused.end();
                Some(state)
            }
            Err(error @ TopologyError::Drift { .. }) => {
                self.stream_refused.note(&error.into());
                None
            }
            Err(error) => return Err(error.into()),
        };
        self.group.make_sure(&self.bus, state).await?;
        self.refused.end();
        Ok(())
    }

    /// Looks again and again. What is made anew ends the open pull by itself.
    async fn go_on(&mut self) -> Infallible {
        loop {
            sleep(LOOK_EVERY).await;
            if let Err(error) = self.look().await {
                debug!(error = format!("{error:#}"), "could not look after the queue group");
                self.refused.note(&error);
            }
        }
    }
}
