//! How events take effect: decoded, claimed in the inbox, handed to the listener and committed, all
//! in one transaction.

use std::{
    panic::AssertUnwindSafe,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures::FutureExt;
use sqlx::PgConnection;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};
use uuid::Uuid;

use crate::{
    attempts,
    connection::Bus,
    dead_letters,
    envelope::Envelope,
    inbox,
    listener::{Failure, HANDLER_TIMEOUT, Listener, Received},
    pool::{self, Pool},
};
use crate::{client_id::ClientId, event::EventSet, trace::TraceContext};

/// How long one transaction of effects may take, from its begin to its commit. With the wait for a
/// connection and the life of an open pull, what it held goes to others within 15 s.
pub(crate) const EFFECT_TIMEOUT: Duration = Duration::from_secs(8);
/// It waits for no lock longer than the first: a batch whose events are locked, every one, is at its
/// end within a minute or two, and what is not locked among them has taken effect. And whoever gets
/// the events after this member has fallen silent meets no lock of it after the second, which is a
/// second more than the listener has.
pub(crate) const BEGIN: &str = "begin; set local lock_timeout = '250ms'; \
                     set local idle_in_transaction_session_timeout = '7s'";

/// What a member needs to let events take effect.
pub(crate) struct Workshop<L> {
    pub(crate) listener: L,
    pub(crate) pool: Pool,
    pub(crate) bus: Bus,
    pub(crate) client_id: ClientId,
    /// The events whose latest attempt an outage of the database cut short, still counted.
    pub(crate) in_vain: Mutex<Vec<Uuid>>,
}

/// A message that was read.
pub(crate) struct Decoded<E> {
    pub(crate) received: Received<E>,
    /// What it is about, such as a ticket's id.
    pub(crate) about: String,
    pub(crate) trace: Option<TraceContext>,
}

/// A message that cannot be read, now or later.
pub(crate) struct Undecodable {
    /// Its id, if it says one.
    pub(crate) id: Option<Uuid>,
    pub(crate) reason: String,
    /// Whether a member of a newer release may read it.
    pub(crate) newer: bool,
}

/// Reads a message.
pub(crate) fn decode<E: EventSet>(
    subject: &str,
    payload: &[u8],
    client_id: &ClientId,
) -> Result<Decoded<E>, Undecodable> {
    let envelope = Envelope::parse(payload).map_err(|error| Undecodable {
        id: None,
        reason: error.to_string(),
        newer: false,
    })?;
    let undecodable = |reason: String| Undecodable { id: Some(envelope.id), reason, newer: false };
    if envelope.kind != subject {
        let kind = &envelope.kind;
        return Err(undecodable(format!("its type {kind:?} is not its subject {subject:?}")));
    }
    let version = envelope.schema_version().map_err(|error| undecodable(error.to_string()))?;
    let event = E::decode(&envelope.kind, version, envelope.data.get()).map_err(|error| {
        Undecodable { newer: error.is_of_a_newer_release(), ..undecodable(error.to_string()) }
    })?;
    let trace = envelope.traceparent.as_deref().and_then(|text| text.parse().ok());
    let (id, time, about) = (envelope.id, envelope.time, envelope.subject.into_owned());
    let received = Received { id, time, client_id: client_id.to_string(), event };
    Ok(Decoded { received, about, trace })
}

/// What came of looking for a dead letter that was given back.
pub(crate) enum Redrive {
    /// There was none.
    NoneWaits,
    /// It was tried, whatever came of that.
    Tried,
    /// An outage of the database, or a lock, cut it short. A person's word still stands for this one.
    CutShort(i64),
}

impl<L: Listener> Workshop<L> {
    /// Remembers that an outage cut short the latest attempt of these events: no fault of theirs.
    pub(crate) fn note_in_vain(&self, mut events: Vec<Uuid>) {
        // Several copies of an event are tried, and counted, as one.
        events.sort_unstable();
        events.dedup();
        self.in_vain.lock().unwrap_or_else(PoisonError::into_inner).append(&mut events);
    }

    /// Whether such attempts are still counted.
    pub(crate) fn has_in_vain(&self) -> bool {
        !self.in_vain.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Takes back what was counted for them. Succeeds only where the database can write, even if
    /// there is nothing to take back.
    pub(crate) async fn take_back(&self) -> Result<(), sqlx::Error> {
        let events = self.in_vain.lock().unwrap_or_else(PoisonError::into_inner).clone();
        attempts::take_back(&self.pool, L::QUEUE_GROUP, &events).await?;
        let mut in_vain = self.in_vain.lock().unwrap_or_else(PoisonError::into_inner);
        in_vain.retain(|event| !events.contains(event));
        Ok(())
    }

    /// One transaction: claim what is new, have the listener write its effect, commit. All of the
    /// events have taken effect afterwards, or none has.
    ///
    /// `counted` says that attempts were counted for them, which are then forgotten; `redriven`
    /// that it is a dead letter, which then is none any more.
    pub(crate) async fn take_effect(
        &self,
        events: &[&Received<L::Events>],
        counted: bool,
        redriven: Option<i64>,
    ) -> Result<(), Failure> {
        let group = L::QUEUE_GROUP;
        let begun = Instant::now();
        let ids: Vec<Uuid> = events.iter().map(|received| received.id).collect();
        let effect = async |tx: &mut PgConnection| {
            let fresh = self.claim_and_call(tx, events).await?;
            if counted {
                attempts::forget(tx, group, &ids).await?;
            }
            if let Some(id) = redriven {
                dead_letters::resolve(tx, id).await?;
            }
            Ok::<_, Failure>(fresh)
        };
        let fresh = self.pool.transaction_within(EFFECT_TIMEOUT, BEGIN, effect).await?;
        self.note_committed(begun, &fresh);
        Ok(())
    }

    /// Has what is new among the events take effect in this transaction. Returns which these are.
    async fn claim_and_call<'a>(
        &self,
        tx: &mut PgConnection,
        events: &[&'a Received<L::Events>],
    ) -> Result<Vec<&'a Received<L::Events>>, Failure> {
        let ids: Vec<Uuid> = events.iter().map(|received| received.id).collect();
        let mut new = inbox::claim(tx, L::QUEUE_GROUP, &self.client_id, &ids).await?;
        // An event that is there twice is new once.
        let fresh: Vec<_> = events
            .iter()
            .copied()
            .filter(|received| {
                let at = new.iter().position(|id| *id == received.id);
                at.map(|at| new.swap_remove(at)).is_some()
            })
            .collect();
        if !fresh.is_empty() {
            self.call(tx, &fresh).await?;
        }
        let repeats = (events.len() - fresh.len()) as u64;
        metrics::counter!("bus_duplicates_total", "group" => L::QUEUE_GROUP).increment(repeats);
        Ok(fresh)
    }

    /// What follows the commit of the effects of these events.
    pub(crate) fn note_committed(&self, begun: Instant, fresh: &[&Received<L::Events>]) {
        let group = L::QUEUE_GROUP;
        if !fresh.is_empty() {
            self.listener.committed();
        }
        metrics::histogram!("bus_handler_seconds", "group" => group).record(begun.elapsed());
        for received in fresh {
            let delay = time::OffsetDateTime::now_utc() - received.time;
            metrics::histogram!("bus_event_delay_seconds", "group" => group)
                .record(delay.as_seconds_f64().max(0.0));
        }
    }

    /// Calls the listener, and makes a failure of a panic and of taking too long.
    pub(crate) async fn call(
        &self,
        tx: &mut PgConnection,
        events: &[&Received<L::Events>],
    ) -> Result<(), Failure> {
        let handled = AssertUnwindSafe(self.listener.handle(tx, events)).catch_unwind();
        match timeout(HANDLER_TIMEOUT, handled).await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => {
                let text = panic
                    .downcast_ref::<String>()
                    .map(String::as_str)
                    .or_else(|| panic.downcast_ref::<&str>().copied())
                    .unwrap_or("no message");
                Err(Failure::Retry(anyhow::anyhow!("the listener panicked: {text}")))
            }
            Err(_) => {
                let late = format!("the listener took longer than {} s", HANDLER_TIMEOUT.as_secs());
                // Where the connection answers, the listener is to blame; where it does not, nobody is.
                if pool::is_alive(tx).await {
                    Err(Failure::Retry(anyhow::anyhow!(late)))
                } else {
                    Err(Failure::Busy(sqlx::Error::Protocol(late)))
                }
            }
        }
    }

    /// Tries one dead letter that was given back to the group.
    pub(crate) async fn redrive(&self) -> Result<Redrive, sqlx::Error> {
        let take = async |connection: &mut PgConnection| {
            dead_letters::take_redriven(connection, L::QUEUE_GROUP).await
        };
        let letter = self.pool.run(take).await?;
        let Some(letter) = letter else { return Ok(Redrive::NoneWaits) };
        let decoded = decode::<L::Events>(&letter.subject, &letter.payload, &self.client_id);
        let outcome = match decoded {
            Ok(event) => self.take_effect(&[&event.received], true, Some(letter.id)).await,
            Err(undecodable) => Err(Failure::Reject(undecodable.reason)),
        };
        match outcome {
            Ok(()) => {
                info!(event.id = %letter.event_id, dead_letter = letter.id, client.id = %self.client_id, "a redriven dead letter took effect");
            }
            Err(Failure::Away(_) | Failure::Busy(_)) => return Ok(Redrive::CutShort(letter.id)),
            Err(failure) => {
                let reason = failure.to_string();
                warn!(event.id = %letter.event_id, dead_letter = letter.id, reason, "a redriven dead letter failed again");
                let note = async |connection: &mut PgConnection| {
                    dead_letters::failed_again(connection, letter.id, &reason, &self.client_id)
                        .await
                };
                self.pool.run(note).await?;
            }
        }
        Ok(Redrive::Tried)
    }
}
