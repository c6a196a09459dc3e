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
    inbox::{self, Claim, Standing},
    listener::{Failure, HANDLER_TIMEOUT, Listener, Received},
    outbox::MAX_BYTES,
    pool::{self, Pool},
    shortened,
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
pub(crate) struct MemberContext<L> {
    pub(crate) listener: L,
    pub(crate) pool: Pool,
    pub(crate) bus: Bus,
    pub(crate) client_id: ClientId,
    /// The events whose latest attempt an outage of the database cut short, still counted.
    pub(crate) interrupted_attempts: Mutex<Vec<Uuid>>,
}

/// A message that was read.
pub(crate) struct Decoded<E> {
    pub(crate) received: Received<E>,
    pub(crate) claim: Claim,
    /// What it is about, such as a ticket's id.
    pub(crate) entity_id: String,
    pub(crate) trace: Option<TraceContext>,
}

/// A message that cannot be read, now or later.
pub(crate) struct Undecodable {
    /// Why: a short text, whatever is in the message.
    pub(crate) reason: String,
    /// Whether a member of a newer release may read it.
    pub(crate) newer: bool,
}

/// An event whose id is another's, by its place among those that were to take effect, and what is to be
/// said of it.
pub(crate) type IdConflict = (usize, String);

/// Reads a message.
///
/// # Errors
/// Why it is no event that a listener could take, now or later: a short text, whatever is in the message.
pub(crate) fn decode<E: EventSet>(
    subject: &str,
    payload: &[u8],
    client_id: &ClientId,
) -> Result<Decoded<E>, Undecodable> {
    read(subject, payload, client_id)
        .map_err(|bad| Undecodable { reason: shortened(&bad.reason), ..bad })
}

impl From<String> for Undecodable {
    fn from(reason: String) -> Self {
        Self { reason, newer: false }
    }
}

fn read<E: EventSet>(
    subject: &str,
    payload: &[u8],
    client_id: &ClientId,
) -> Result<Decoded<E>, Undecodable> {
    if payload.len() > MAX_BYTES {
        return Err(
            format!("it has {} bytes, an event has at most {MAX_BYTES}", payload.len()).into()
        );
    }
    let envelope = Envelope::parse(payload).map_err(|error| error.to_string())?;
    if envelope.kind != subject {
        return Err(format!("its type {:?} is not its subject {subject:?}", envelope.kind).into());
    }
    let version = envelope.schema_version().map_err(|error| error.to_string())?;
    let event = E::decode(&envelope.kind, version, envelope.data.get()).map_err(|error| {
        Undecodable { reason: error.to_string(), newer: error.is_of_a_newer_release() }
    })?;
    let at = E::SUBJECTS.iter().position(|known| *known == subject);
    if let Some(expected) = at.and_then(|at| E::SOURCES.get(at))
        && envelope.source != *expected
    {
        return Err(format!("its source is {:?}, expected {expected:?}", envelope.source).into());
    }
    let trace = envelope.traceparent.as_deref().and_then(|text| text.parse().ok());
    let (id, time, entity_id) = (envelope.id, envelope.time, envelope.subject.into_owned());
    let received = Received { id, time, client_id: client_id.to_string(), event };
    Ok(Decoded { received, claim: Claim::new(id, payload), entity_id, trace })
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

impl<L: Listener> MemberContext<L> {
    /// Remembers that an outage cut short the latest attempt of these events: no fault of theirs.
    pub(crate) fn note_interrupted(&self, mut events: Vec<Uuid>) {
        // Several copies of an event are tried, and counted, as one.
        events.sort_unstable();
        events.dedup();
        self.interrupted_attempts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .append(&mut events);
    }

    /// Whether such attempts are still counted.
    pub(crate) fn has_interrupted(&self) -> bool {
        !self.interrupted_attempts.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Takes back what was counted for them. Succeeds only where the database can write, even if
    /// there is nothing to take back.
    pub(crate) async fn take_back(&self) -> Result<(), sqlx::Error> {
        let events =
            self.interrupted_attempts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        attempts::take_back(&self.pool, L::QUEUE_GROUP, &events).await?;
        let mut interrupted_attempts =
            self.interrupted_attempts.lock().unwrap_or_else(PoisonError::into_inner);
        interrupted_attempts.retain(|event| !events.contains(event));
        Ok(())
    }

    /// One transaction: claim what is new, have the listener write its effect, commit. All of the
    /// events have taken effect afterwards, or none has; but for those whose id is another's, which
    /// are returned.
    ///
    /// `counted` says that attempts were counted for them, which are then forgotten; `redriven`
    /// that it is a dead letter, which then is none any more.
    pub(crate) async fn take_effect(
        &self,
        events: &[&Decoded<L::Events>],
        counted: bool,
        redriven: Option<i64>,
    ) -> Result<Vec<IdConflict>, Failure> {
        let group = L::QUEUE_GROUP;
        let begun = Instant::now();
        let ids: Vec<Uuid> = events.iter().map(|event| event.claim.id).collect();
        let effect = async |tx: &mut PgConnection| {
            let (fresh, id_conflicts) = self.claim_and_call(tx, events).await?;
            if counted {
                attempts::forget(tx, group, &ids).await?;
            }
            if let Some(id) = redriven
                && id_conflicts.is_empty()
            {
                dead_letters::resolve(tx, id).await?;
            }
            Ok::<_, Failure>((fresh, id_conflicts))
        };
        let (fresh, id_conflicts) =
            self.pool.transaction_within(EFFECT_TIMEOUT, BEGIN, effect).await?;
        self.note_committed(begun, &fresh);
        Ok(id_conflicts)
    }

    /// Has what is new among the events take effect in this transaction. Returns which these are, and
    /// those whose id is another's.
    async fn claim_and_call<'a>(
        &self,
        tx: &mut PgConnection,
        events: &[&'a Decoded<L::Events>],
    ) -> Result<(Vec<&'a Received<L::Events>>, Vec<IdConflict>), Failure> {
        let claims: Vec<Claim> = events.iter().map(|event| event.claim).collect();
        let standings = inbox::claim(tx, L::QUEUE_GROUP, &self.client_id, &claims).await?;
        let (mut fresh, mut id_conflicts) = (Vec::new(), Vec::new());
        for (at, standing) in standings.into_iter().enumerate() {
            match standing {
                Standing::New => fresh.push(&events[at].received),
                Standing::Twin(first) if claims[first] != claims[at] => {
                    id_conflicts.push((at, inbox::id_conflict(None)));
                }
                Standing::IdConflict(reason) => id_conflicts.push((at, reason)),
                Standing::Twin(_) | Standing::Known => {}
            }
        }
        if !fresh.is_empty() {
            self.call(tx, &fresh).await?;
        }
        let repeats = (events.len() - fresh.len() - id_conflicts.len()) as u64;
        metrics::counter!("bus_duplicates_total", "group" => L::QUEUE_GROUP).increment(repeats);
        Ok((fresh, id_conflicts))
    }

    /// What follows the commit of the effects of these events.
    pub(crate) fn note_committed(&self, begun: Instant, fresh: &[&Received<L::Events>]) {
        let group = L::QUEUE_GROUP;
        if !fresh.is_empty() {
            self.listener.after_commit();
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
            Ok(event) => match self.take_effect(&[&event], true, Some(letter.id)).await {
                Ok(mut id_conflicts) => {
                    id_conflicts.pop().map_or(Ok(()), |(_, why)| Err(Failure::Reject(why)))
                }
                Err(failure) => Err(failure),
            },
            Err(bad) => Err(Failure::Reject(bad.reason)),
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
