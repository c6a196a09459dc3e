//! What a member does while one pull subscription holds: it asks for events, works on one batch
//! while the next one arrives, pauses while the database is away, and leaves nothing in hand.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use async_nats::{Message, Subject};
use futures::{FutureExt, future::BoxFuture};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tracing::{debug, info, warn};

use crate::{
    batch::{self, Outcome},
    connection::ConnectionState,
    delivery::MAX_BACKOFF,
    effect::MemberContext,
    in_flight::{self, InFlight},
    listener::Listener,
    pull::{Pull, Pulled},
    topology::ACK_WAIT,
};
use crate::{event::EventSet, shutdown::Shutdown};

/// The most events in one transaction, and in one request to the server. A member holds at most
/// twice as many: a batch at work and the next one.
const BATCH: usize = 256;
/// How often the server hears that events are still being worked on, of each that has been in hand
/// for as long. So short because on a busy machine the word is late on its way, the server with
/// hearing it, and the event itself was on its way for a while.
const PROGRESS: Duration = Duration::from_millis(ACK_WAIT.as_millis() as u64 / 8);
/// How often a message without its payload is passed over. One that comes more often was published so.
const BARE_DELIVERIES: i64 = 3;

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
pub(crate) struct Session<L: Listener> {
    pull: Pull,
    link: watch::Receiver<ConnectionState>,
    epoch: u64,
    waiting: VecDeque<InFlight>,
    working: Option<BoxFuture<'static, Outcome>>,
    /// What is being worked on, since when it is in hand, to be spoken for while it lasts.
    in_work: Vec<(Subject, Instant)>,
    mode: Mode,
    /// The stream sequence of the newest event that arrived.
    last_sequence: u64,
    /// How many batches in a row found the database away.
    outages: u32,
    context: Arc<MemberContext<L>>,
}

impl<L: Listener> Session<L> {
    /// Subscribes for what a pull brings. Asks for nothing yet.
    pub(crate) async fn open(context: Arc<MemberContext<L>>, epoch: u64) -> anyhow::Result<Self> {
        let (bus, stream) = (&context.bus, <L::Events as EventSet>::STREAM.name);
        Ok(Self {
            pull: Pull::open(&bus.client, &bus.api_of(stream), stream, L::QUEUE_GROUP).await?,
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

    /// Pulls and works until the process stops, the link fails, or the consumer is gone.
    pub(crate) async fn run(&mut self, shutdown: &Shutdown) -> anyhow::Result<()> {
        let mut progress = interval(PROGRESS);
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.begin_work();
            if self.is_over() {
                return Ok(());
            }
            if matches!(self.mode, Mode::Paused(_)) && self.pull.is_quiet() {
                // Not earlier: what goes back while a request is open may come straight here again.
                self.give_everything_back().await;
            }
            let wants = matches!(self.mode, Mode::Taking) && self.waiting.len() < BATCH;
            if wants && self.pull.is_idle() {
                self.pull.ask(BATCH).await?;
            }
            // Who asks no more still takes what is on its way.
            let taking = matches!(self.mode, Mode::Taking);
            let listens = !self.pull.is_idle() || (!taking && !self.pull.is_quiet());
            let stoppable = !matches!(self.mode, Mode::Stopping | Mode::Leaving);
            tokio::select! {
                outcome = maybe(self.working.as_mut()) => self.finished(outcome),
                pulled = self.pull.next(), if listens => self.pulled(pulled),
                () = paused(&mut self.mode) => {
                    self.mode = Mode::Taking;
                    info!("the database is back, pulling again");
                }
                () = shutdown.begun(), if stoppable => {
                    debug!(waiting = self.waiting.len(), "taking no more events");
                    self.mode = Mode::Stopping;
                }
                Ok(()) = self.link.changed() => self.link_changed(),
                _ = progress.tick() => {
                    self.measure();
                    self.speak_for_what_is_in_hand().await;
                }
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
        let batch: Vec<InFlight> = self.waiting.drain(..size).collect();
        self.in_work = batch.iter().map(|held| (held.reply.clone(), held.since)).collect();
        self.working = Some(batch::settle(self.context.clone(), batch, self.epoch).boxed());
    }

    /// Whether the session has nothing left to do.
    fn is_over(&self) -> bool {
        let done = self.working.is_none() && self.waiting.is_empty();
        match self.mode {
            Mode::Taking | Mode::Paused(_) => false,
            // An open request may still bring events; wait for its end, unless nobody is there.
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
                let over = serves_again(self.context.clone(), self.outages);
                self.mode = Mode::Paused(over.boxed());
                self.outages += 1;
            }
            // No time to wait for it. `run` ends once nothing waits.
            Mode::Stopping | Mode::Leaving => {
                let left = self.waiting.drain(..);
                self.in_work = left.map(|held| (held.reply, held.since)).collect();
            }
        }
    }

    /// Shows what this member has, and how far it is.
    #[expect(clippy::cast_precision_loss, reason = "gauges")]
    fn measure(&self) {
        let in_hand = self.in_work.len() + self.waiting.len();
        metrics::gauge!("bus_in_hand", "group" => L::QUEUE_GROUP).set(in_hand as f64);
        if self.last_sequence > 0 {
            let last = self.last_sequence as f64;
            metrics::gauge!("bus_last_sequence", "group" => L::QUEUE_GROUP).set(last);
        }
    }

    fn pulled(&mut self, pulled: Pulled) {
        match pulled {
            Pulled::Event(message) => {
                let bare = is_bare(&message);
                match InFlight::new(message, &self.context.bus.jetstream) {
                    Some(held) if bare && held.delivery <= BARE_DELIVERIES => {
                        debug!("passed over a message without its payload");
                    }
                    Some(held) => {
                        self.last_sequence = held.sequence;
                        self.waiting.push_back(held);
                    }
                    None => debug!("passed over a message that JetStream did not send"),
                }
            }
            Pulled::Ended | Pulled::Nothing => {}
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
        if link.up && link.epoch != self.epoch {
            // The server has forgotten what was asked on the connection before.
            self.leave();
        }
    }

    fn leave(&mut self) {
        if !matches!(self.mode, Mode::Stopping) {
            self.mode = Mode::Leaving;
        }
    }

    /// Whatever is at work has an end that does not depend on anybody's answer, the pool sees to that: so
    /// this does not speak for long for what will never be done.
    async fn speak_for_what_is_in_hand(&mut self) {
        let in_work = self.in_work.iter().map(|(reply, since)| (reply, since));
        let in_hand = in_work.chain(self.waiting.iter().map(|held| (&held.reply, &held.since)));
        // Most events are answered for long before; saying it of those too would be a message each.
        let lasting = in_hand.filter(|(_, since)| since.elapsed() >= PROGRESS);
        if self.context.bus.is_on(self.epoch) {
            in_flight::still_working(&self.context.bus.client, lasting.map(|(reply, _)| reply))
                .await;
        }
    }

    /// Gives back what was not answered for, for others to take at once.
    pub(crate) async fn give_everything_back(&mut self) {
        let waiting = self.waiting.drain(..).map(|held| held.reply);
        let replies: Vec<Subject> =
            self.in_work.drain(..).map(|(reply, _)| reply).chain(waiting).collect();
        if !replies.is_empty() && self.context.bus.is_on(self.epoch) {
            debug!(events = replies.len(), "giving events back");
            for reply in &replies {
                in_flight::give_back(&self.context.bus.client, reply, Duration::ZERO).await;
            }
        }
    }
}

/// Whether the server has kept the payload back, because somebody has set the consumer to headers only.
/// That is set right within seconds; until then such a message is no event that cannot be read.
fn is_bare(message: &Message) -> bool {
    let size = message.headers.as_ref().and_then(|headers| headers.get("Nats-Msg-Size"));
    message.payload.is_empty() && size.is_some_and(|size| size.as_str() != "0")
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

/// Ready when the database writes again, and the attempts that its outage cut short are taken
/// back. After `outages` without a batch between them that succeeded, not too soon: what answers
/// may still be unable to serve.
async fn serves_again<L: Listener>(context: Arc<MemberContext<L>>, outages: u32) {
    let mut backoff = Duration::from_millis(50) * 2_u32.pow(outages.min(5));
    loop {
        backoff = backoff.min(MAX_BACKOFF);
        sleep(backoff.mul_f64(rand::random_range(0.5..=1.0))).await;
        match context.take_back().await {
            Ok(()) => return,
            Err(error) => debug!(%error, "the database is still away"),
        }
        backoff *= 2;
    }
}
