//! How events take effect: claimed in the inbox, handed to the listener and committed in one transaction.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::FutureExt;
use sqlx::PgConnection;
use tokio::time::{Instant, sleep, timeout};
use tracing::{Instrument, Span, debug};
use uuid::Uuid;

use crate::{
    attempts,
    backoff::RETRY,
    client_id::ClientId,
    connection::Bus,
    dead_letters,
    decode::Decoded,
    error::panic_message,
    inbox::{self, Claim, Standing},
    listener::{Failure, HANDLER_TIMEOUT, Listener},
    pool::{self, Pool},
    spans,
};

/// How long one transaction of effects may take, from begin to commit: [`HANDLER_TIMEOUT`] and the bus's own
/// statements.
pub(crate) const EFFECT_TIMEOUT: Duration = Duration::from_secs(8);
/// Begins a transaction of effects.
///
/// `lock_timeout`: even a batch of events that are all locked ends within a minute or two, and those that are
/// not locked take effect. `idle_in_transaction_session_timeout`: a second above [`HANDLER_TIMEOUT`], after
/// which a frozen member holds no lock that blocks the member that gets its events.
pub(crate) const BEGIN: &str = "begin; set local lock_timeout = '250ms'; \
                     set local idle_in_transaction_session_timeout = '7s'";

/// How many outages in a row lengthen the first pause of the next one.
const MAX_COUNTED_OUTAGES: u32 = 5;

/// Everything a member needs to process events.
pub(crate) struct MemberContext<L> {
    pub(crate) listener: L,
    pub(crate) pool: Pool,
    pub(crate) bus: Bus,
    pub(crate) client_id: ClientId,
    /// Events whose latest attempt was interrupted by an outage of the database and is still counted.
    pub(crate) interrupted_attempts: Mutex<Vec<Uuid>>,
    /// Held while they are uncounted.
    pub(crate) uncounting: tokio::sync::Mutex<()>,
    /// Whether the last batch whose events were checked one by one had repeated ones, as during a refill.
    pub(crate) expects_repeats: AtomicBool,
}

/// An event that has another event's id: its place among those to take effect, and the reason.
pub(crate) type IdConflict = (usize, String);

/// The new events of a transaction, and those that have another event's id.
type Claimed<'a, E> = (Vec<&'a Decoded<E>>, Vec<IdConflict>);

/// Why a transaction of effects was rolled back.
enum RolledBack {
    /// Its events were all claimed as new, and some of them are not.
    NotAllNew,
    Failure(Failure),
}

impl From<Failure> for RolledBack {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl From<sqlx::Error> for RolledBack {
    fn from(error: sqlx::Error) -> Self {
        Self::Failure(error.into())
    }
}

impl<L: Listener> MemberContext<L> {
    /// Remembers that an outage interrupted the latest attempt of these events, which is not their fault.
    pub(crate) fn note_interrupted(&self, mut events: Vec<Uuid>) {
        // Several copies of an event are tried and counted as one.
        events.sort_unstable();
        events.dedup();
        pool::lock(&self.interrupted_attempts).append(&mut events);
    }

    /// Whether interrupted attempts are still counted.
    pub(crate) fn has_interrupted(&self) -> bool {
        !pool::lock(&self.interrupted_attempts).is_empty()
    }

    /// Uncounts interrupted attempts. Fails if the database does not accept writes, even if there are
    /// none.
    pub(crate) async fn uncount_interrupted(&self) -> Result<(), sqlx::Error> {
        // Two batches and the upkeep do this. One at a time, or the same attempts would be uncounted twice.
        let _turn = self.uncounting.lock().await;
        let events = pool::lock(&self.interrupted_attempts).clone();
        attempts::uncount(&self.pool, L::QUEUE_GROUP, &events).await?;
        // Attempts noted meanwhile come after these.
        pool::lock(&self.interrupted_attempts).drain(..events.len());
        Ok(())
    }

    /// Returns once the database accepts writes again and the attempts that its outage interrupted are uncounted.
    /// The first pause grows with the `outages` since the last batch that succeeded: a database that answers
    /// may still be unable to serve.
    pub(crate) async fn recovered(self: Arc<Self>, outages: u32) {
        let mut backoff = RETRY.with_failures(outages.min(MAX_COUNTED_OUTAGES));
        loop {
            sleep(backoff.pause()).await;
            match self.uncount_interrupted().await {
                // Another batch may have noted some meanwhile.
                Ok(()) if self.has_interrupted() => {}
                Ok(()) => return,
                Err(error) => debug!(%error, "the database is still unavailable"),
            }
        }
    }

    /// One transaction: claims the new events, has the listener write their effects, and commits.
    /// Afterwards all of the events have taken effect, or none, except for those that have another event's
    /// id, which it returns.
    ///
    /// `counted`: attempts were counted for the events, and are deleted. `redriven`: the event is this dead
    /// letter, which is deleted.
    pub(crate) async fn take_effect(
        &self,
        events: &[&Decoded<L::Events>],
        counted: bool,
        redriven: Option<i64>,
    ) -> Result<Vec<IdConflict>, Failure> {
        let begun = Instant::now();
        let spans = self.transaction_spans(events);
        let all_new = !counted && !self.expects_repeats.load(Ordering::Relaxed);
        let mut committed = self.commit(events, counted, redriven, all_new).await;
        if matches!(committed, Err(RolledBack::NotAllNew)) {
            committed = self.commit(events, counted, redriven, false).await;
        }
        let (fresh, id_conflicts) = committed.map_err(|rolled_back| {
            let failure = match rolled_back {
                RolledBack::Failure(failure) => failure,
                RolledBack::NotAllNew => Failure::Retry("a repeated event".into()),
            };
            spans::failed(&spans, &failure);
            failure
        })?;
        drop(spans);
        self.after_commit(begun, &fresh);
        Ok(id_conflicts)
    }

    async fn commit<'a>(
        &self,
        events: &[&'a Decoded<L::Events>],
        counted: bool,
        redriven: Option<i64>,
        all_new: bool,
    ) -> Result<Claimed<'a, L::Events>, RolledBack> {
        let group = L::QUEUE_GROUP;
        let ids: Vec<Uuid> = events.iter().map(|event| event.claim.id).collect();
        let effect = async |tx: &mut PgConnection| {
            let (fresh, id_conflicts) = self.claim_and_call(tx, events, all_new).await?;
            if counted {
                let attempts = attempts::forget(tx, group, &ids).await?;
                inbox::note_attempts(tx, group, &attempts).await?;
            }
            if let Some(id) = redriven
                && id_conflicts.is_empty()
            {
                let attempts = dead_letters::resolve(tx, id).await?;
                inbox::note_attempts(tx, group, &attempts).await?;
            }
            Ok::<_, RolledBack>((fresh, id_conflicts))
        };
        self.pool.transaction_within(EFFECT_TIMEOUT, BEGIN, effect).await
    }

    /// Begins the span of a transaction in the trace of each event.
    pub(crate) fn transaction_spans(&self, events: &[&Decoded<L::Events>]) -> Vec<Span> {
        let traces = events.iter().map(|event| event.received.trace());
        spans::transactions(&self.pool.connect_options(), traces)
    }

    /// Writes the effects of the new events in this transaction. Returns these, and those that have another
    /// event's id. `all_new`: none of the events is expected to have taken effect before.
    async fn claim_and_call<'a>(
        &self,
        tx: &mut PgConnection,
        events: &[&'a Decoded<L::Events>],
        all_new: bool,
    ) -> Result<Claimed<'a, L::Events>, RolledBack> {
        // The metric exists from the first event on.
        let duplicates = metrics::counter!("bus_duplicates_total", "group" => L::QUEUE_GROUP);
        let claims: Vec<Claim> = events.iter().map(|event| event.claim).collect();
        if all_new {
            if !inbox::claim_all_new(tx, L::QUEUE_GROUP, &self.client_id, &claims).await? {
                return Err(RolledBack::NotAllNew);
            }
            self.call(tx, events).await?;
            return Ok((events.to_vec(), Vec::new()));
        }
        let standings = inbox::claim(tx, L::QUEUE_GROUP, &self.client_id, &claims).await?;
        let (mut fresh, mut id_conflicts) = (Vec::new(), Vec::new());
        for (at, standing) in standings.into_iter().enumerate() {
            match standing {
                Standing::New => fresh.push(events[at]),
                Standing::Twin(first) if claims[first].digest != claims[at].digest => {
                    id_conflicts.push((at, inbox::id_conflict(None)));
                }
                Standing::IdConflict(reason) => id_conflicts.push((at, reason)),
                Standing::Twin(_) | Standing::Known => {}
            }
        }
        if !fresh.is_empty() {
            self.call(tx, &fresh).await?;
        }
        self.expects_repeats.store(fresh.len() < events.len(), Ordering::Relaxed);
        let repeats = (events.len() - fresh.len() - id_conflicts.len()) as u64;
        duplicates.increment(repeats);
        Ok((fresh, id_conflicts))
    }

    /// To be called after the effects of these events were committed.
    pub(crate) fn after_commit(&self, begun: Instant, fresh: &[&Decoded<L::Events>]) {
        let group = L::QUEUE_GROUP;
        if !fresh.is_empty() {
            self.listener.after_commit();
        }
        metrics::histogram!("bus_handler_seconds", "group" => group).record(begun.elapsed());
        for event in fresh {
            let delay = time::OffsetDateTime::now_utc() - event.received.time;
            metrics::histogram!("bus_event_delay_seconds", "group" => group)
                .record(delay.as_seconds_f64().max(0.0));
        }
    }

    /// Calls the listener. A panic is a failure, and so is taking too long. A single event is handled in
    /// its span and its trace, several in the span of their batch and in no trace.
    pub(crate) async fn call(
        &self,
        tx: &mut PgConnection,
        events: &[&Decoded<L::Events>],
    ) -> Result<(), Failure> {
        let (span, trace) = match events {
            [event] => (event.received.span().clone(), event.received.trace()),
            _ => (Span::current(), None),
        };
        let received: Vec<_> = events.iter().map(|event| &event.received).collect();
        let handled = AssertUnwindSafe(self.listener.handle(tx, &received)).catch_unwind();
        let handled = async {
            match trace {
                Some(trace) => trace.scope(handled).await,
                None => handled.await,
            }
        };
        match timeout(HANDLER_TIMEOUT, handled.instrument(span)).await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => {
                let text = panic_message(&*panic);
                Err(Failure::Retry(format!("the listener panicked: {text}").into()))
            }
            Err(_) => {
                let late = format!("the listener took longer than {} s", HANDLER_TIMEOUT.as_secs());
                // If the connection answers, the listener was too slow; if not, the connection has failed.
                if pool::is_alive(tx).await {
                    Err(Failure::Retry(late.into()))
                } else {
                    Err(Failure::Busy(sqlx::Error::Protocol(late)))
                }
            }
        }
    }
}
