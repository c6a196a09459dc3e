//! A member while one pull subscription lasts: it pulls events, processes two batches at once while the next
//! one arrives, pauses while the database is unavailable, and returns every unacknowledged event at the end.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use async_nats::Subject;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, warn};

use crate::{
    batch::Outcome,
    connection::ConnectionState,
    effect::MemberContext,
    event::EventSet,
    in_flight::{self, InFlight, ReplyHandle},
    listener::Listener,
    measured,
    pull::{Pull, Pulled, SessionError},
    settle::settle,
    shutdown::Shutdown,
};

/// A member reports progress this many times per ack wait. So often because on a busy machine the report,
/// the server and the event itself may each be late.
const PROGRESS_PER_ACK_WAIT: u32 = 8;
/// How many batches are processed at once. While one waits for the disk or for the server to confirm its acks,
/// the other one's statements run.
const BATCHES: usize = 2;
/// How often a message without its payload is ignored. One that comes more often was published empty.
const BARE_DELIVERIES: i64 = 3;

/// How the member treats new events.
enum Mode {
    /// Taking them.
    Taking,
    /// Waiting for the database. Events in hand are returned once nothing more can arrive.
    Paused(BoxFuture<'static, ()>),
    /// The process is stopping: finishing what it has.
    Stopping,
    /// The server or its consumer is gone: finishing what it has, then a new session begins.
    Leaving,
}

/// The state of a member while one pull subscription lasts.
pub(crate) struct Session<L: Listener> {
    pull: Pull,
    link: watch::Receiver<ConnectionState>,
    epoch: u64,
    waiting: VecDeque<InFlight>,
    working: FuturesUnordered<BoxFuture<'static, (u64, Outcome)>>,
    /// The events being processed, with the number of their batch, to report progress.
    in_work: Vec<(u64, ReplyHandle)>,
    /// The number of the latest batch, and whether it has a redelivered event.
    batch: u64,
    again: bool,
    mode: Mode,
    /// The stream sequence of the newest event that arrived.
    last_sequence: u64,
    /// Whether the server had no more events for the group when it sent the newest one.
    up_to_date: bool,
    /// How many batches in a row found the database unavailable.
    outages: u32,
    context: Arc<MemberContext<L>>,
}

impl<L: Listener> Session<L> {
    /// Subscribes to the answers of pulls. Pulls nothing yet.
    pub(crate) async fn open(
        context: Arc<MemberContext<L>>,
        epoch: u64,
    ) -> Result<Self, SessionError> {
        let (bus, stream) = (&context.bus, <L::Events as EventSet>::STREAM.name);
        Ok(Self {
            pull: Pull::open(bus, stream, L::QUEUE_GROUP).await?,
            link: context.bus.connection_state(),
            epoch,
            waiting: VecDeque::new(),
            working: FuturesUnordered::new(),
            in_work: Vec::new(),
            batch: 0,
            again: false,
            mode: Mode::Taking,
            last_sequence: 0,
            up_to_date: true,
            outages: 0,
            context,
        })
    }

    /// Pulls and processes until the process stops, the connection fails, or the consumer is gone.
    pub(crate) async fn run(&mut self, shutdown: &Shutdown) -> Result<(), SessionError> {
        let batch_size = self.context.bus.options.batch_size;
        let mut progress = interval(self.progress());
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.begin_work();
            if self.is_over() {
                return Ok(());
            }
            if matches!(self.mode, Mode::Paused(_)) && self.pull.is_quiet() {
                // Not earlier: while a request is open, a returned event may come straight back here.
                self.return_waiting().await;
            }
            let wants = matches!(self.mode, Mode::Taking) && self.waiting.len() < batch_size;
            if wants && self.pull.is_idle() {
                self.pull.ask(batch_size).await?;
            }
            // Without asking for more, it still takes what is already on the way.
            let taking = matches!(self.mode, Mode::Taking);
            let listens = !self.pull.is_idle() || (!taking && !self.pull.is_quiet());
            let stoppable = !matches!(self.mode, Mode::Stopping | Mode::Leaving);
            tokio::select! {
                Some((batch, outcome)) = self.working.next() => self.finished(batch, outcome),
                pulled = self.pull.next(), if listens => self.pulled(pulled),
                () = paused(&mut self.mode) => {
                    self.mode = Mode::Taking;
                    // A long outage is logged by the task that watches the database.
                    debug!("the database is available again, pulling events");
                }
                () = shutdown.begun(), if stoppable => {
                    debug!(waiting = self.waiting.len(), "taking no more events");
                    self.mode = Mode::Stopping;
                }
                Ok(()) = self.link.changed() => self.link_changed(),
                _ = progress.tick() => {
                    self.measure();
                    self.report_progress().await;
                }
            }
        }
    }

    /// Starts processing what has arrived, if there is room for a batch. While one is being processed and the
    /// server has more events, the next one starts once it is full. A batch with a redelivered event is the only
    /// one at work: that event may have killed its process, and its attempts are counted.
    fn begin_work(&mut self) {
        let batch_size = self.context.bus.options.batch_size;
        while !self.waiting.is_empty() && self.working.len() < BATCHES {
            let size = batch_size.min(self.waiting.len());
            let taking = matches!(self.mode, Mode::Taking);
            let complete = size == batch_size || self.up_to_date || !taking;
            let again = || self.waiting.range(..size).any(|held| held.delivery > 1);
            let starts = self.working.is_empty() || (complete && !self.again && !again());
            if !starts || matches!(self.mode, Mode::Paused(_)) {
                return;
            }
            self.again = again();
            let messages: Vec<InFlight> = self.waiting.drain(..size).collect();
            self.batch += 1;
            let number = self.batch;
            let held = messages.iter().map(|held| (number, held.in_hand.clone()));
            self.in_work.extend(held);
            let settled = settle(self.context.clone(), messages, self.epoch);
            self.working.push(settled.map(move |outcome| (number, outcome)).boxed());
        }
    }

    /// Whether the session has nothing left to do.
    fn is_over(&self) -> bool {
        let done = self.working.is_empty() && self.waiting.is_empty();
        match self.mode {
            Mode::Taking | Mode::Paused(_) => false,
            // An open request may still bring events: wait for its end, unless the server is gone.
            Mode::Stopping => done && (self.pull.is_quiet() || !self.link.borrow().up),
            Mode::Leaving => done,
        }
    }

    fn finished(&mut self, batch: u64, outcome: Outcome) {
        self.in_work.retain(|(number, ..)| *number != batch);
        self.measure();
        let Outcome::Away(open) = outcome else {
            self.outages = 0;
            return;
        };
        for held in open.into_iter().rev() {
            self.waiting.push_front(held);
        }
        match self.mode {
            // The other batch met the same outage.
            Mode::Paused(_) => {}
            Mode::Taking => {
                let recovered = self.context.clone().recovered(self.outages);
                self.mode = Mode::Paused(recovered.boxed());
                self.outages += 1;
            }
            // There is no time to wait for it. `run` ends once nothing waits.
            Mode::Stopping | Mode::Leaving => {
                let left = self.waiting.drain(..).map(|held| (batch, held.in_hand.clone()));
                self.in_work.extend(left);
            }
        }
    }

    fn measure(&self) {
        let in_hand = self.in_work.len() + self.waiting.len();
        measured::member(L::QUEUE_GROUP, in_hand, self.last_sequence);
    }

    fn pulled(&mut self, pulled: Pulled) {
        match pulled {
            Pulled::Event(message) => {
                let bare = in_flight::is_bare(&message);
                match InFlight::new(message, &self.context.bus.jetstream) {
                    Some(held) if bare && held.delivery <= BARE_DELIVERIES => {
                        debug!("ignored a message without its payload");
                    }
                    Some(held) => {
                        (self.last_sequence, self.up_to_date) = (held.sequence, held.pending == 0);
                        self.waiting.push_back(held);
                    }
                    None => debug!("ignored a message that is not from JetStream"),
                }
            }
            Pulled::Ended => self.up_to_date = true,
            Pulled::Nothing => {}
            Pulled::Lost => {
                debug!("a pull was not answered, starting a new session");
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
        if link.up && link.epoch != self.epoch {
            // The server has forgotten the requests of the previous connection.
            self.leave();
        }
    }

    fn leave(&mut self) {
        if !matches!(self.mode, Mode::Stopping) {
            self.mode = Mode::Leaving;
        }
    }

    fn progress(&self) -> Duration {
        self.context.bus.options.ack_wait / PROGRESS_PER_ACK_WAIT
    }

    /// Tells the server that events are still being processed. Processing always ends, because the pool
    /// bounds it, so this cannot hold events forever.
    async fn report_progress(&mut self) {
        let in_work = self.in_work.iter().map(|(_, held)| held);
        let in_hand = in_work.chain(self.waiting.iter().map(|held| &held.in_hand));
        // Most events are acknowledged long before; reporting those too would cost a message each.
        let progress = self.progress();
        let lasting =
            in_hand.filter(|held| held.since.elapsed() >= progress && !held.is_answered());
        if self.context.bus.is_on(self.epoch) {
            in_flight::in_progress(&self.context.bus.client, lasting.map(|held| &held.reply)).await;
        }
    }

    /// Returns every unacknowledged event, for immediate redelivery to other members.
    pub(crate) async fn return_all(&mut self) {
        self.return_waiting().await;
        let open = self.in_work.drain(..).filter(|(_, held)| !held.is_answered());
        let in_work = open.map(|(_, held)| held.reply).collect();
        self.return_events(in_work).await;
    }

    /// Returns the events that are not being processed.
    async fn return_waiting(&mut self) {
        let waiting = self.waiting.drain(..).map(|held| held.in_hand.reply).collect();
        self.return_events(waiting).await;
    }

    async fn return_events(&mut self, replies: Vec<Subject>) {
        if !replies.is_empty() && self.context.bus.is_on(self.epoch) {
            debug!(events = replies.len(), "returning events");
            in_flight::nak_all(&self.context.bus.client, &replies).await;
        }
    }
}

/// Ready when the pause is over. Never ready without a pause.
async fn paused(mode: &mut Mode) {
    match mode {
        Mode::Paused(over) => over.await,
        _ => std::future::pending().await,
    }
}
