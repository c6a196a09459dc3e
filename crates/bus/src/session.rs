//! A member while one pull subscription lasts: it pulls events, processes one batch while the next one
//! arrives, pauses while the database is unavailable, and returns every unacknowledged event at the end.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use async_nats::{Message, Subject};
use futures::{FutureExt, future::BoxFuture};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tracing::{debug, warn};

use crate::{
    backoff::RETRY,
    batch::Outcome,
    connection::ConnectionState,
    effect::MemberContext,
    event::EventSet,
    in_flight::{self, InFlight},
    listener::Listener,
    measured,
    pull::{Pull, Pulled, SessionError},
    settle,
    shutdown::Shutdown,
};

/// A member reports progress this many times per ack wait. So often because on a busy machine the report,
/// the server and the event itself may each be late.
const PROGRESS_PER_ACK_WAIT: u32 = 8;
/// How often a message without its payload is ignored. One that comes more often was published empty.
const BARE_DELIVERIES: i64 = 3;
/// How many outages in a row lengthen the first pause of the next one.
const MAX_COUNTED_OUTAGES: u32 = 5;

/// What the member is doing about new events.
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
    working: Option<BoxFuture<'static, Outcome>>,
    /// The reply subjects of the events being processed and since when they are in hand, to report
    /// progress.
    in_work: Vec<(Subject, Instant)>,
    mode: Mode,
    /// The stream sequence of the newest event that arrived.
    last_sequence: u64,
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
            link: context.bus.link(),
            epoch,
            waiting: VecDeque::new(),
            working: None,
            in_work: Vec::new(),
            mode: Mode::Taking,
            last_sequence: 0,
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
                self.return_all().await;
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
                outcome = maybe(self.working.as_mut()) => self.finished(outcome),
                pulled = self.pull.next(), if listens => self.pulled(pulled),
                () = paused(&mut self.mode) => {
                    self.mode = Mode::Taking;
                    // An outage that lasted is told by whoever watches the database.
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

    /// Starts processing what has arrived, unless a batch is being processed.
    fn begin_work(&mut self) {
        if self.working.is_some() || self.waiting.is_empty() || matches!(self.mode, Mode::Paused(_))
        {
            return;
        }
        let size = self.waiting.len().min(self.context.bus.options.batch_size);
        let batch: Vec<InFlight> = self.waiting.drain(..size).collect();
        self.in_work = batch.iter().map(|held| (held.reply.clone(), held.since)).collect();
        self.working = Some(settle::settle(self.context.clone(), batch, self.epoch).boxed());
    }

    /// Whether the session has nothing left to do.
    fn is_over(&self) -> bool {
        let done = self.working.is_none() && self.waiting.is_empty();
        match self.mode {
            Mode::Taking | Mode::Paused(_) => false,
            // An open request may still bring events: wait for its end, unless the server is gone.
            Mode::Stopping => done && (self.pull.is_quiet() || !self.link.borrow().up),
            Mode::Leaving => done,
        }
    }

    fn finished(&mut self, outcome: Outcome) {
        self.working = None;
        self.in_work.clear();
        self.measure();
        let Outcome::Away(open) = outcome else {
            self.outages = 0;
            return;
        };
        for held in open.into_iter().rev() {
            self.waiting.push_front(held);
        }
        match self.mode {
            Mode::Taking | Mode::Paused(_) => {
                let recovered = database_recovered(self.context.clone(), self.outages);
                self.mode = Mode::Paused(recovered.boxed());
                self.outages += 1;
            }
            // There is no time to wait for it. `run` ends once nothing waits.
            Mode::Stopping | Mode::Leaving => {
                let left = self.waiting.drain(..);
                self.in_work = left.map(|held| (held.reply, held.since)).collect();
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
                let bare = is_bare(&message);
                match InFlight::new(message, &self.context.bus.jetstream) {
                    Some(held) if bare && held.delivery <= BARE_DELIVERIES => {
                        debug!("ignored a message without its payload");
                    }
                    Some(held) => {
                        self.last_sequence = held.sequence;
                        self.waiting.push_back(held);
                    }
                    None => debug!("ignored a message that is not from JetStream"),
                }
            }
            Pulled::Ended | Pulled::Nothing => {}
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
        let in_work = self.in_work.iter().map(|(reply, since)| (reply, since));
        let in_hand = in_work.chain(self.waiting.iter().map(|held| (&held.reply, &held.since)));
        // Most events are acknowledged long before; reporting those too would cost a message each.
        let progress = self.progress();
        let lasting = in_hand.filter(|(_, since)| since.elapsed() >= progress);
        if self.context.bus.is_on(self.epoch) {
            in_flight::in_progress(&self.context.bus.client, lasting.map(|(reply, _)| reply)).await;
        }
    }

    /// Returns every unacknowledged event, for immediate redelivery to other members.
    pub(crate) async fn return_all(&mut self) {
        let waiting = self.waiting.drain(..).map(|held| held.reply);
        let replies: Vec<Subject> =
            self.in_work.drain(..).map(|(reply, _)| reply).chain(waiting).collect();
        if !replies.is_empty() && self.context.bus.is_on(self.epoch) {
            debug!(events = replies.len(), "returning events");
            for reply in &replies {
                in_flight::nak(&self.context.bus.client, reply, Duration::ZERO).await;
            }
        }
    }
}

/// Whether the server left the payload out, because somebody set the consumer to headers only. A member
/// corrects that within seconds; until then such a message is not an unreadable event.
fn is_bare(message: &Message) -> bool {
    let size = message.headers.as_ref().and_then(|headers| headers.get("Nats-Msg-Size"));
    message.payload.is_empty() && size.is_some_and(|size| size.as_str() != "0")
}

/// Ready when the work is done. Never ready without work.
async fn maybe(work: Option<&mut BoxFuture<'static, Outcome>>) -> Outcome {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

/// Ready when the pause is over. Never ready without a pause.
async fn paused(mode: &mut Mode) {
    match mode {
        Mode::Paused(over) => over.await,
        _ => std::future::pending().await,
    }
}

/// Ready when the database accepts writes again and the attempts that its outage interrupted are
/// uncounted. The first pause grows with the `outages` since the last batch that succeeded: a database that
/// answers may still be unable to serve.
async fn database_recovered<L: Listener>(context: Arc<MemberContext<L>>, outages: u32) {
    let mut backoff = RETRY.with_failures(outages.min(MAX_COUNTED_OUTAGES));
    loop {
        sleep(backoff.pause()).await;
        match context.uncount_interrupted().await {
            Ok(()) => return,
            Err(error) => debug!(%error, "the database is still unavailable"),
        }
    }
}
