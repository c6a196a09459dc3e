//! The delivery loop: a member of a queue group takes what is there, has it take effect, and
//! answers for it. One batch is worked on while the next one arrives.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use async_nats::Subject;
use futures::{FutureExt, future::BoxFuture};
use sqlx::PgPool;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, sleep},
};
use tracing::{debug, error, info, warn};

use super::{
    batch::{self, Outcome},
    connection::{Bus, Link},
    dead_letters,
    effect::Workshop,
    held::{self, Held},
    inbox,
    listener::Listener,
    pull::{Pull, Pulled},
    topology::{self, ACK_WAIT, TopologyError},
};
use crate::{
    events::EventSet,
    pod::{
        client_id::ClientId, health::Health, lease, lease::Lease, process::Pod, shutdown::Shutdown,
    },
};

/// The most events in one transaction, and in one request to the server. A member holds at most
/// twice as many: a batch at work and the next one.
const BATCH: usize = 256;
/// How often the server hears that events are still being worked on.
const PROGRESS: Duration = Duration::from_millis(ACK_WAIT.as_millis() as u64 / 3);
/// The longest pause after failures of the server.
const MAX_BACKOFF: Duration = Duration::from_secs(1);
/// How often dead letters are looked at for one that was given back.
const REDRIVE_POLL: Duration = Duration::from_secs(1);
/// How often old inbox rows are deleted, and how many at once.
const PRUNE: Duration = Duration::from_secs(60);
const PRUNE_LIMIT: i64 = 10_000;
/// How often the group's members are counted.
const COUNT_MEMBERS: Duration = Duration::from_secs(10);
/// The gate of readiness that is open while the member pulls.
const GATE: &str = "queue group";

/// A member of a queue group.
pub struct Delivery<L: Listener> {
    shop: Arc<Workshop<L>>,
    health: Health,
    shutdown: Shutdown,
}

/// What the member is doing about new events.
enum Mode {
    /// Taking them.
    Taking,
    /// Waiting for the database. What is in hand goes back as soon as nothing more can arrive.
    Paused(BoxFuture<'static, ()>),
    /// The process stops: finishing what it has.
    Stopping,
    /// The server or its consumer is gone: finishing what it has, to begin anew.
    Leaving,
}

/// A member's hands while one pull subscription holds.
struct Session<L: Listener> {
    pull: Pull,
    link: watch::Receiver<Link>,
    epoch: u64,
    waiting: VecDeque<Held>,
    working: Option<BoxFuture<'static, Outcome>>,
    /// What is being worked on, to be spoken for while it lasts.
    in_work: Vec<Subject>,
    mode: Mode,
    shop: Arc<Workshop<L>>,
    health: Health,
}

impl<L: Listener> Delivery<L> {
    /// A member with this process's client id. Spawns nothing.
    pub fn new(listener: L, bus: Bus, pool: PgPool, pod: &Pod) -> Self {
        let client_id: ClientId = pod.client_id.clone();
        pod.health.not_ready(GATE, "not pulling yet");
        Self {
            shop: Arc::new(Workshop { listener, pool, bus, client_id }),
            health: pod.health.clone(),
            shutdown: pod.shutdown.clone(),
        }
    }

    /// Spawns the member's tasks: the delivery loop, which begins once the client id is held, and
    /// the one that looks after redriven dead letters and old inbox rows.
    pub fn spawn(self, lease: Lease) {
        let shutdown = self.shutdown.clone();
        shutdown.spawn("dead letters", tend(self.shop.clone(), self.shutdown.clone()));
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
                    self.health.not_ready(GATE, format!("{error:#}"));
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
        let bus = &self.shop.bus;
        let stream = <L::Events as EventSet>::STREAM.name;
        let mut session = Session {
            pull: Pull::open(&bus.client, stream, L::QUEUE_GROUP).await?,
            link: bus.link(),
            epoch,
            waiting: VecDeque::new(),
            working: None,
            in_work: Vec::new(),
            mode: Mode::Taking,
            shop: self.shop.clone(),
            health: self.health.clone(),
        };
        self.health.ready(GATE);
        info!(queue.group = L::QUEUE_GROUP, client.id = %self.shop.client_id, "joined the queue group");
        let ended = session.run(&self.shutdown).await;
        session.give_everything_back().await;
        ended
    }
}

impl<L: Listener> Session<L> {
    async fn run(&mut self, shutdown: &Shutdown) -> anyhow::Result<()> {
        let mut progress = interval(PROGRESS);
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.begin_work();
            if self.is_over() {
                return Ok(());
            }
            if matches!(self.mode, Mode::Paused(_)) && self.pull.is_idle() {
                // Not earlier: what goes back while a request is open may come straight here again.
                self.give_everything_back().await;
            }
            let wants = matches!(self.mode, Mode::Taking) && self.waiting.len() < BATCH;
            if wants && self.pull.is_idle() {
                self.pull.ask(BATCH).await?;
            }
            let stoppable = !matches!(self.mode, Mode::Stopping | Mode::Leaving);
            tokio::select! {
                outcome = maybe(self.working.as_mut()) => self.finished(outcome),
                pulled = self.pull.next(), if !self.pull.is_idle() => self.pulled(pulled),
                () = paused(&mut self.mode) => {
                    self.mode = Mode::Taking;
                    self.health.ready(GATE);
                    info!("the database is back, pulling again");
                }
                () = shutdown.begun(), if stoppable => {
                    debug!(waiting = self.waiting.len(), "taking no more events");
                    self.mode = Mode::Stopping;
                }
                Ok(()) = self.link.changed() => self.link_changed(),
                _ = progress.tick() => self.speak_for_what_is_in_hand().await,
            }
        }
    }

    /// Begins on what has arrived, if nothing else is being worked on.
    fn begin_work(&mut self) {
        if self.working.is_some() || self.waiting.is_empty() || matches!(self.mode, Mode::Paused(_))
        {
            return;
        }
        let size = self.waiting.len().min(BATCH);
        let batch: Vec<Held> = self.waiting.drain(..size).collect();
        self.in_work = batch.iter().map(|held| held.reply.clone()).collect();
        self.working = Some(batch::settle(self.shop.clone(), batch).boxed());
    }

    /// Whether the session has nothing left to do.
    fn is_over(&self) -> bool {
        let done = self.working.is_none() && self.waiting.is_empty();
        match self.mode {
            Mode::Taking | Mode::Paused(_) => false,
            // An open request may still bring events; wait for its end, unless nobody is there.
            Mode::Stopping => done && (self.pull.is_idle() || !self.link.borrow().up),
            Mode::Leaving => done,
        }
    }

    fn finished(&mut self, outcome: Outcome) {
        self.working = None;
        self.in_work.clear();
        if let Outcome::Away(left) = outcome {
            for held in left.into_iter().rev() {
                self.waiting.push_front(held);
            }
            match self.mode {
                Mode::Taking | Mode::Paused(_) => {
                    self.health.not_ready(GATE, "the database is away");
                    self.mode = Mode::Paused(answers(self.shop.pool.clone()).boxed());
                }
                // No time to wait for it. `run` ends once nothing waits.
                Mode::Stopping | Mode::Leaving => {
                    self.in_work = self.waiting.drain(..).map(|held| held.reply).collect();
                }
            }
        }
    }

    fn pulled(&mut self, pulled: Pulled) {
        match pulled {
            Pulled::Event(message) => match Held::new(message, &self.shop.bus.jetstream) {
                Some(held) => self.waiting.push_back(held),
                None => debug!("passed over a message that JetStream did not send"),
            },
            Pulled::Ended => {}
            Pulled::Lost => {
                debug!("a pull was not answered, beginning anew");
                self.leave();
            }
            Pulled::Gone(why) => {
                warn!(queue.group = L::QUEUE_GROUP, why, "the queue group's consumer is gone");
                self.leave();
            }
        }
    }

    fn link_changed(&mut self) {
        let link = *self.link.borrow_and_update();
        if !link.up {
            self.health.not_ready(GATE, "not connected to NATS");
        } else if link.epoch != self.epoch {
            // The server has forgotten what was asked on the connection before.
            self.leave();
        }
    }

    fn leave(&mut self) {
        if !matches!(self.mode, Mode::Stopping) {
            self.mode = Mode::Leaving;
        }
    }

    async fn speak_for_what_is_in_hand(&mut self) {
        let waiting = self.waiting.iter().map(|held| &held.reply);
        held::still_working(&self.shop.bus.client, self.in_work.iter().chain(waiting)).await;
    }

    /// Gives back what was not answered for, for others to take at once.
    async fn give_everything_back(&mut self) {
        let replies: Vec<Subject> =
            self.in_work.drain(..).chain(self.waiting.drain(..).map(|held| held.reply)).collect();
        if !replies.is_empty() && self.link.borrow().up {
            debug!(events = replies.len(), "giving events back");
            for reply in &replies {
                held::give_back(&self.shop.bus.client, reply, Duration::ZERO).await;
            }
        }
    }
}

/// Ready when the work is done; never while there is none.
async fn maybe(work: Option<&mut BoxFuture<'static, Outcome>>) -> Outcome {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

/// Ready when the pause is over; never while there is none.
async fn paused(mode: &mut Mode) {
    match mode {
        Mode::Paused(over) => over.await,
        _ => std::future::pending().await,
    }
}

/// Ready when the database answers again.
async fn answers(pool: PgPool) {
    let mut backoff = Duration::from_millis(50);
    while let Err(error) = sqlx::query("select 1").execute(&pool).await {
        debug!(%error, "the database is still away");
        sleep(backoff.mul_f64(rand::random_range(0.5..=1.0))).await;
        backoff = (backoff * 2).min(MAX_BACKOFF);
    }
}

/// Tries redriven dead letters, deletes old inbox rows, counts dead letters and members.
async fn tend<L: Listener>(shop: Arc<Workshop<L>>, shutdown: Shutdown) -> anyhow::Result<()> {
    let (mut redrive, mut prune) = (interval(REDRIVE_POLL), interval(PRUNE));
    let mut members = interval(COUNT_MEMBERS);
    members.set_missed_tick_behavior(MissedTickBehavior::Delay);
    redrive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    prune.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let done = tokio::select! {
            () = shutdown.begun() => return Ok(()),
            _ = redrive.tick() => redrive_all(&shop).await,
            _ = prune.tick() => forget_old(&shop).await,
            _ = members.tick() => {
                count_members(&shop).await;
                Ok(())
            }
        };
        match done {
            Err(error) if super::database_is_away(&error) => {
                debug!(%error, "dead letters must wait")
            }
            Err(error) => error!(%error, "could not tend dead letters"),
            Ok(()) => {}
        }
    }
}

async fn redrive_all<L: Listener>(shop: &Workshop<L>) -> Result<(), sqlx::Error> {
    while shop.redrive().await? {}
    let mut connection = shop.pool.acquire().await?;
    let count = dead_letters::count(&mut connection, L::QUEUE_GROUP).await?;
    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    metrics::gauge!("bus_dead_letters", "group" => L::QUEUE_GROUP).set(count as f64);
    Ok(())
}

async fn forget_old<L: Listener>(shop: &Workshop<L>) -> Result<(), sqlx::Error> {
    let mut connection = shop.pool.acquire().await?;
    while inbox::prune(&mut connection, PRUNE_LIMIT).await? == PRUNE_LIMIT.unsigned_abs() {}
    Ok(())
}

async fn count_members<L: Listener>(shop: &Workshop<L>) {
    match tokio::time::timeout(COUNT_MEMBERS, lease::holders(&shop.bus)).await {
        Ok(Ok(holders)) => {
            let group = |group: &String| group == L::QUEUE_GROUP;
            let members = holders.values().filter(|holder| holder.queue_groups.iter().any(group));
            #[expect(clippy::cast_precision_loss, reason = "a gauge")]
            metrics::gauge!("bus_group_members", "group" => L::QUEUE_GROUP)
                .set(members.count() as f64);
        }
        Ok(Err(error)) => debug!(error = format!("{error:#}"), "could not count the members"),
        Err(_) => debug!("could not count the members in time"),
    }
}
