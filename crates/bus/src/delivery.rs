//! The delivery loop of a queue group's member: it pulls events, has them take effect, and acknowledges
//! them. Two batches are processed at once while the next one arrives.

use std::{
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tracing::{debug, info};

use crate::{
    backoff::RETRY,
    connection::Bus,
    effect::MemberContext,
    lease::Lease,
    listener::Listener,
    pool::Pool,
    pull::SessionError,
    session::Session,
    shutdown::Shutdown,
    upkeep,
    watch::{Readiness, Watch},
};

/// A session that lasted this long was no failure, however it ended.
const MIN_HEALTHY_SESSION: Duration = Duration::from_secs(1);

/// A member of a queue group.
pub struct Delivery<L: Listener> {
    context: Arc<MemberContext<L>>,
    joined: watch::Sender<Readiness>,
    shutdown: Shutdown,
}

impl<L: Listener> Delivery<L> {
    /// A member under this process's client id. Spawns nothing yet.
    pub fn new(listener: L, bus: Bus, pool: Pool, shutdown: Shutdown) -> Self {
        let client_id = bus.client_id.clone();
        Self {
            context: Arc::new(MemberContext {
                listener,
                pool,
                bus,
                client_id,
                interrupted_attempts: Mutex::default(),
                uncounting: tokio::sync::Mutex::default(),
                expects_repeats: AtomicBool::default(),
            }),
            joined: watch::Sender::new(Readiness::Waiting("not in the group yet".to_owned())),
            shutdown,
        }
    }

    /// Spawns the member's tasks: the delivery loop, which starts once the lease is held, and the upkeep
    /// of dead letters and the inbox.
    ///
    /// Returns a watch: whether the member has joined its group and, if not, what it waits for.
    pub fn spawn(self, lease: Lease) -> watch::Receiver<Readiness> {
        let joined = self.joined.subscribe();
        let shutdown = self.shutdown.clone();
        shutdown.spawn("dead letters", upkeep::run(self.context.clone(), self.shutdown.clone()));
        shutdown.clone().spawn("delivery", async move {
            tokio::select! {
                () = shutdown.begun() => {}
                () = lease.held() => self.run().await,
            }
        });
        joined
    }

    /// Takes part in the group until the process stops.
    async fn run(self) {
        let bus = self.context.bus.clone();
        let mut watch = Watch::of_member::<L>(bus.clone());
        let (mut backoff, mut connection, mut joined_on) = (RETRY, 0, None);
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
            let ended = match watch.check().await {
                Ok(()) => self.session(epoch, &mut joined_on, &mut watch).await,
                Err(error) => Err(error.into()),
            };
            let pause = match ended {
                Ok(()) if begun.elapsed() > MIN_HEALTHY_SESSION => {
                    backoff.reset();
                    continue;
                }
                // A session that ends at once would end at once again.
                Ok(()) => None,
                Err(error) => {
                    debug!(%error, "cannot pull yet");
                    let why = format!("not in the group yet: {error}");
                    Readiness::waits_for(&self.joined, why);
                    match &error {
                        SessionError::Topology(error) => watch.report(error),
                        _ => None,
                    }
                }
            };
            let pause = pause.unwrap_or_else(|| backoff.pause());
            tokio::select! {
                () = self.shutdown.begun() => break,
                () = sleep(pause) => {}
            }
        }
    }

    /// One session, on this connection. `joined_on` is the connection of the previous session.
    async fn session(
        &self,
        epoch: u64,
        joined_on: &mut Option<u64>,
        watch: &mut Watch,
    ) -> Result<(), SessionError> {
        let mut session = Session::open(self.context.clone(), epoch).await?;
        self.joined.send_replace(Readiness::Ready);
        let client_id = &self.context.client_id;
        if joined_on.replace(epoch).is_none_or(|before| before == epoch) {
            info!(notice = "joined", queue.group = L::QUEUE_GROUP, client.id = %client_id, "joined the queue group");
        } else {
            // After an outage of NATS, whose end the connection logs.
            debug!(queue.group = L::QUEUE_GROUP, client.id = %client_id, "joined the queue group again");
        }
        let ended = tokio::select! {
            ended = session.run(&self.shutdown) => ended,
            never = watch.keep_checking() => match never {},
        };
        session.return_all().await;
        ended
    }
}
