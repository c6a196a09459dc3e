//! A batch of messages in a member's hands, from their delivery to an answer for each. Good events
//! commit together, also where there are bad ones among them; what may end the process is tried by
//! itself.

use std::sync::Arc;

use time::OffsetDateTime;
use tracing::{debug, error, warn};
use uuid::Uuid;

use crate::{
    answer::NEWER_DELIVERIES,
    attempts, database_is_away,
    effect::{Decoded, IdConflict, MemberContext, Undecodable, decode},
    in_flight::InFlight,
    inbox,
    listener::{Failure, Listener, MAX_ATTEMPTS},
    split::{Size, Verdict},
    undeliverable::Undeliverable,
};

/// What came of a batch.
pub(crate) enum Outcome {
    /// Every message was answered for.
    Settled,
    /// The database is away; these were not answered for.
    Away(Vec<InFlight>),
}

pub(crate) struct Slot<E> {
    pub(crate) message: InFlight,
    pub(crate) event_id: Uuid,
    pub(crate) event: Result<Decoded<E>, Undecodable>,
    pub(crate) answered: bool,
}

pub(crate) struct Batch<L: Listener> {
    pub(crate) context: Arc<MemberContext<L>>,
    pub(crate) slots: Vec<Slot<L::Events>>,
    /// The connection on which they were delivered.
    pub(crate) epoch: u64,
}

/// An event to be tried in a transaction of its own.
struct SingleEvent {
    at: usize,
    /// Whether this attempt was counted.
    counted: bool,
}

/// Works on a batch until every message is answered for, or the database is away.
pub(crate) async fn settle<L: Listener>(
    context: Arc<MemberContext<L>>,
    messages: Vec<InFlight>,
    epoch: u64,
) -> Outcome {
    let group = L::QUEUE_GROUP;
    let again = messages.iter().filter(|message| message.delivery > 1).count() as u64;
    metrics::counter!("bus_delivered_total", "group" => group).increment(messages.len() as u64);
    metrics::counter!("bus_redelivered_total", "group" => group).increment(again);
    let slots = messages.into_iter().map(|message| slot(&context, message)).collect();
    let mut batch = Batch { context, slots, epoch };
    match batch.settle().await {
        Ok(()) => Outcome::Settled,
        Err(error) => {
            if database_is_away(&error) {
                warn!(group, %error, "the database is away, giving events back");
            } else {
                // A fault of the bus's own tables; no event is to blame for it.
                error!(group, %error, "the database refuses, giving events back");
            }
            let open = batch.slots.into_iter().filter(|slot| !slot.answered);
            Outcome::Away(open.map(|slot| slot.message).collect())
        }
    }
}

fn slot<L: Listener>(context: &MemberContext<L>, message: InFlight) -> Slot<L::Events> {
    let (event_id, event) = match decode(&message.subject, &message.payload, &context.client_id) {
        Ok(event) => (event.claim.id, Ok(event)),
        // Not the id that it says, which may be that of another.
        Err(bad) => (message.id_of_bytes(), Err(bad)),
    };
    Slot { message, event_id, event, answered: false }
}

impl<L: Listener> Batch<L> {
    /// # Errors
    /// When the database cannot serve. Every other failure is an answer.
    async fn settle(&mut self) -> Result<(), sqlx::Error> {
        let now = OffsetDateTime::now_utc();
        let (mut fresh, mut again) = (Vec::new(), Vec::new());
        let (mut unreadable, mut uncheckable, mut newer) = (Vec::new(), Vec::new(), Vec::new());
        for (at, slot) in self.slots.iter().enumerate() {
            match (&slot.event, inbox::uncheckable(slot.event_id, now)) {
                (Err(bad), _) if bad.newer && slot.message.delivery < NEWER_DELIVERIES => {
                    newer.push((at, bad.reason.clone()));
                }
                (Err(bad), _) => unreadable.push(Undeliverable::untried(at, bad.reason.clone())),
                (Ok(_), Some(reason)) => uncheckable.push(Undeliverable::untried(at, reason)),
                (Ok(_), None) if slot.message.delivery == 1 => fresh.push(at),
                (Ok(_), None) => again.push(at),
            }
        }
        // Those first that are probably good: they wait for none of the others.
        let mut singles = self.process_batch(fresh, false).await?;
        self.leave_to_newer_members(newer).await;
        self.dead_letter(unreadable).await?;
        self.dead_letter_uncheckable(uncheckable).await?;
        if !again.is_empty() {
            singles.extend(self.again(again).await?);
        }
        for event in singles {
            self.process_one(event).await?;
        }
        if self.context.has_interrupted() {
            // A lock cut them short. Now, because they may come again before anybody else looks.
            self.context.take_back().await?;
        }
        Ok(())
    }

    fn ids(&self, slots: &[usize]) -> Vec<Uuid> {
        slots.iter().map(|at| self.slots[*at].event_id).collect()
    }

    /// Tries what was delivered before. Returns what to try alone.
    async fn again(&mut self, slots: Vec<usize>) -> Result<Vec<SingleEvent>, sqlx::Error> {
        let slots = self.acknowledge_known(slots).await?;
        let tried = attempts::of(&self.context.pool, L::QUEUE_GROUP, &self.ids(&slots)).await?;
        let (mut untried, mut suspects) = (Vec::new(), Vec::new());
        let (mut given_up, mut singles) = (Vec::new(), Vec::new());
        for at in slots {
            match tried.get(&self.slots[at].event_id) {
                // Whoever had these before may have been killed by one of them. Together once more,
                // on record; the next time, each by itself.
                None => untried.push(at),
                Some(tried) if tried.attempts >= MAX_ATTEMPTS => given_up.push(Undeliverable {
                    at,
                    reason: tried.last_error.clone(),
                    attempts: tried.attempts,
                    id_conflict: false,
                }),
                Some(tried) if tried.was_interrupted() => {
                    singles.push(SingleEvent { at, counted: false })
                }
                // They failed and killed nobody: one transaction, and apart from what is fresh.
                Some(_) => suspects.push(at),
            }
        }
        if !untried.is_empty() {
            attempts::begin(&self.context.pool, L::QUEUE_GROUP, &self.ids(&untried)).await?;
            singles.extend(self.process_batch(untried, true).await?);
        }
        self.dead_letter(given_up).await?;
        if !suspects.is_empty() {
            attempts::begin(&self.context.pool, L::QUEUE_GROUP, &self.ids(&suspects)).await?;
            singles.extend(self.in_pieces(suspects, Size::Single, true).await?);
        }
        Ok(singles)
    }

    /// Lets events take effect in one transaction. Returns those to try alone.
    async fn process_batch(
        &mut self,
        slots: Vec<usize>,
        counted: bool,
    ) -> Result<Vec<SingleEvent>, sqlx::Error> {
        if slots.is_empty() {
            return Ok(Vec::new());
        }
        match self.effect(&slots, counted).await {
            Ok(id_conflicts) => self.answer(slots, id_conflicts).await?,
            Err(Failure::Away(error)) => return Err(error),
            Err(failure) if slots.len() == 1 => self.failed(vec![(slots[0], failure)]).await?,
            Err(failure) => {
                debug!(events = slots.len(), %failure, "a batch failed, trying it in pieces");
                return self.in_pieces(slots, Size::Pieces, counted).await;
            }
        }
        Ok(Vec::new())
    }

    /// Lets those events take effect that can, and answers for those that cannot. Returns those to
    /// try alone.
    async fn in_pieces(
        &mut self,
        mut slots: Vec<usize>,
        size: Size,
        counted: bool,
    ) -> Result<Vec<SingleEvent>, sqlx::Error> {
        let mut singles = Vec::new();
        while !slots.is_empty() {
            let events: Vec<_> = self.decoded(&slots).collect();
            let verdicts = match self.context.take_effect_in_pieces(&events, size, counted).await {
                Ok(verdicts) => verdicts,
                Err(Failure::Away(error)) => {
                    self.note_interrupted(&slots, counted);
                    return Err(error);
                }
                Err(failure) => {
                    debug!(events = slots.len(), %failure, "pieces did not commit, trying one by one");
                    // What was counted for this attempt is, if it was in vain, taken back.
                    let interrupted = matches!(failure, Failure::Busy(_));
                    self.note_interrupted(&slots, counted && interrupted);
                    let counted = counted && !interrupted;
                    singles.extend(slots.into_iter().map(|at| SingleEvent { at, counted }));
                    return Ok(singles);
                }
            };
            let (mut done, mut failed, mut untried) = (Vec::new(), Vec::new(), Vec::new());
            let mut id_conflicts = Vec::new();
            for (at, verdict) in slots.into_iter().zip(verdicts) {
                match verdict {
                    Verdict::Effect | Verdict::Known => done.push(at),
                    Verdict::IdConflict(reason) => {
                        id_conflicts.push(Undeliverable::id_conflict(at, reason))
                    }
                    Verdict::Failed(failure) => {
                        let interrupted = matches!(failure, Failure::Busy(_));
                        self.note_interrupted(&[at], counted && interrupted);
                        failed.push((at, failure));
                    }
                    Verdict::Slow => singles.push(SingleEvent { at, counted }),
                    Verdict::Untried => untried.push(at),
                }
            }
            self.acknowledge(&done).await;
            self.dead_letter(id_conflicts).await?;
            self.failed(failed).await?;
            slots = untried;
        }
        Ok(singles)
    }

    /// Lets one event take effect by itself.
    async fn process_one(&mut self, event: SingleEvent) -> Result<(), sqlx::Error> {
        let SingleEvent { at, counted } = event;
        if !counted {
            attempts::begin(&self.context.pool, L::QUEUE_GROUP, &self.ids(&[at])).await?;
        }
        match self.effect(&[at], true).await {
            Ok(id_conflicts) => self.answer(vec![at], id_conflicts).await,
            Err(Failure::Away(error)) => Err(error),
            Err(failure) => self.failed(vec![(at, failure)]).await,
        }
    }

    /// The events in these slots, which all were read.
    pub(crate) fn decoded(&self, slots: &[usize]) -> impl Iterator<Item = &Decoded<L::Events>> {
        slots.iter().filter_map(|at| self.slots[*at].event.as_ref().ok())
    }

    async fn effect(&self, slots: &[usize], counted: bool) -> Result<Vec<IdConflict>, Failure> {
        let outcome = self.try_effect(slots, counted).await;
        if matches!(outcome, Err(Failure::Away(_) | Failure::Busy(_))) {
            self.note_interrupted(slots, counted);
        }
        outcome
    }

    fn note_interrupted(&self, slots: &[usize], counted: bool) {
        if counted {
            self.context.note_interrupted(self.ids(slots));
        }
    }

    async fn try_effect(&self, slots: &[usize], counted: bool) -> Result<Vec<IdConflict>, Failure> {
        let events: Vec<_> = self.decoded(slots).collect();
        let effect = self.context.take_effect(&events, counted, None);
        match events.first().and_then(|decoded| decoded.trace) {
            // What one event causes belongs to its trace. Of a batch, no trace is the only one.
            Some(trace) if slots.len() == 1 => trace.child().scope(effect).await,
            _ => effect.await,
        }
    }
}
