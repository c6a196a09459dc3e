//! A batch of messages in a member's hands, from their delivery to an answer for each. Good events
//! commit together, also where there are bad ones among them; what may end the process is tried by
//! itself.

use std::sync::Arc;

use time::OffsetDateTime;
use tracing::{debug, error, warn};
use uuid::Uuid;

use crate::{
    answer::{Grave, NEWER_DELIVERIES},
    attempts, database_is_away,
    effect::{Decoded, Undecodable, Usurped, Workshop, decode},
    held::Held,
    inbox,
    listener::{Failure, Listener, MAX_ATTEMPTS},
    split::{Size, Verdict},
};

/// What came of a batch.
pub(crate) enum Outcome {
    /// Every message was answered for.
    Settled,
    /// The database is away; these were not answered for.
    Away(Vec<Held>),
}

pub(crate) struct Slot<E> {
    pub(crate) held: Held,
    pub(crate) event_id: Uuid,
    pub(crate) event: Result<Decoded<E>, Undecodable>,
    pub(crate) answered: bool,
}

pub(crate) struct Batch<L: Listener> {
    pub(crate) shop: Arc<Workshop<L>>,
    pub(crate) slots: Vec<Slot<L::Events>>,
    /// The connection on which they were delivered.
    pub(crate) epoch: u64,
}

/// An event to be tried in a transaction of its own.
struct Lone {
    at: usize,
    /// Whether this attempt was counted.
    counted: bool,
}

/// Works on a batch until every message is answered for, or the database is away.
pub(crate) async fn settle<L: Listener>(
    shop: Arc<Workshop<L>>,
    messages: Vec<Held>,
    epoch: u64,
) -> Outcome {
    let group = L::QUEUE_GROUP;
    let again = messages.iter().filter(|held| held.delivery > 1).count() as u64;
    metrics::counter!("bus_delivered_total", "group" => group).increment(messages.len() as u64);
    metrics::counter!("bus_redelivered_total", "group" => group).increment(again);
    let slots = messages.into_iter().map(|held| slot(&shop, held)).collect();
    let mut batch = Batch { shop, slots, epoch };
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
            Outcome::Away(open.map(|slot| slot.held).collect())
        }
    }
}

fn slot<L: Listener>(shop: &Workshop<L>, held: Held) -> Slot<L::Events> {
    let (event_id, event) = match decode(&held.subject, &held.payload, &shop.client_id) {
        Ok(event) => (event.claim.id, Ok(event)),
        // Not the id that it says, which may be that of another.
        Err(bad) => (held.id_of_bytes(), Err(bad)),
    };
    Slot { held, event_id, event, answered: false }
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
                (Err(bad), _) if bad.newer && slot.held.delivery < NEWER_DELIVERIES => {
                    newer.push((at, bad.reason.clone()));
                }
                (Err(bad), _) => unreadable.push(Grave::untried(at, bad.reason.clone())),
                (Ok(_), Some(reason)) => uncheckable.push(Grave::untried(at, reason)),
                (Ok(_), None) if slot.held.delivery == 1 => fresh.push(at),
                (Ok(_), None) => again.push(at),
            }
        }
        // Those first that are probably good: they wait for none of the others.
        let mut alone = self.together(fresh, false).await?;
        self.leave_to_newer_members(newer).await;
        self.bury(unreadable).await?;
        self.bury_uncheckable(uncheckable).await?;
        if !again.is_empty() {
            alone.extend(self.again(again).await?);
        }
        for lone in alone {
            self.alone(lone).await?;
        }
        if self.shop.has_in_vain() {
            // A lock cut them short. Now, because they may come again before anybody else looks.
            self.shop.take_back().await?;
        }
        Ok(())
    }

    fn ids(&self, slots: &[usize]) -> Vec<Uuid> {
        slots.iter().map(|at| self.slots[*at].event_id).collect()
    }

    /// Tries what was delivered before. Returns what to try alone.
    async fn again(&mut self, slots: Vec<usize>) -> Result<Vec<Lone>, sqlx::Error> {
        let slots = self.acknowledge_known(slots).await?;
        let tried = attempts::of(&self.shop.pool, L::QUEUE_GROUP, &self.ids(&slots)).await?;
        let (mut untried, mut suspects) = (Vec::new(), Vec::new());
        let (mut given_up, mut alone) = (Vec::new(), Vec::new());
        for at in slots {
            match tried.get(&self.slots[at].event_id) {
                // Whoever had these before may have been killed by one of them. Together once more,
                // on record; the next time, each by itself.
                None => untried.push(at),
                Some(tried) if tried.attempts >= MAX_ATTEMPTS => given_up.push(Grave {
                    at,
                    reason: tried.last_error.clone(),
                    attempts: tried.attempts,
                    usurped: false,
                }),
                Some(tried) if tried.was_interrupted() => alone.push(Lone { at, counted: false }),
                // They failed and killed nobody: one transaction, and apart from what is fresh.
                Some(_) => suspects.push(at),
            }
        }
        if !untried.is_empty() {
            attempts::begin(&self.shop.pool, L::QUEUE_GROUP, &self.ids(&untried)).await?;
            alone.extend(self.together(untried, true).await?);
        }
        self.bury(given_up).await?;
        if !suspects.is_empty() {
            attempts::begin(&self.shop.pool, L::QUEUE_GROUP, &self.ids(&suspects)).await?;
            alone.extend(self.in_pieces(suspects, Size::Single, true).await?);
        }
        Ok(alone)
    }

    /// Lets events take effect in one transaction. Returns those to try alone.
    async fn together(
        &mut self,
        slots: Vec<usize>,
        counted: bool,
    ) -> Result<Vec<Lone>, sqlx::Error> {
        if slots.is_empty() {
            return Ok(Vec::new());
        }
        match self.effect(&slots, counted).await {
            Ok(usurped) => self.answer(slots, usurped).await?,
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
    ) -> Result<Vec<Lone>, sqlx::Error> {
        let mut alone = Vec::new();
        while !slots.is_empty() {
            let events: Vec<_> = self.decoded(&slots).collect();
            let verdicts = match self.shop.take_effect_in_pieces(&events, size, counted).await {
                Ok(verdicts) => verdicts,
                Err(Failure::Away(error)) => {
                    self.note_in_vain(&slots, counted);
                    return Err(error);
                }
                Err(failure) => {
                    debug!(events = slots.len(), %failure, "pieces did not commit, trying one by one");
                    // What was counted for this attempt is, if it was in vain, taken back.
                    let in_vain = matches!(failure, Failure::Busy(_));
                    self.note_in_vain(&slots, counted && in_vain);
                    let counted = counted && !in_vain;
                    alone.extend(slots.into_iter().map(|at| Lone { at, counted }));
                    return Ok(alone);
                }
            };
            let (mut done, mut failed, mut untried) = (Vec::new(), Vec::new(), Vec::new());
            let mut usurped = Vec::new();
            for (at, verdict) in slots.into_iter().zip(verdicts) {
                match verdict {
                    Verdict::Effect | Verdict::Known => done.push(at),
                    Verdict::Usurped(reason) => usurped.push(Grave::usurped(at, reason)),
                    Verdict::Failed(failure) => {
                        let in_vain = matches!(failure, Failure::Busy(_));
                        self.note_in_vain(&[at], counted && in_vain);
                        failed.push((at, failure));
                    }
                    Verdict::Slow => alone.push(Lone { at, counted }),
                    Verdict::Untried => untried.push(at),
                }
            }
            self.acknowledge(&done).await;
            self.bury(usurped).await?;
            self.failed(failed).await?;
            slots = untried;
        }
        Ok(alone)
    }

    /// Lets one event take effect by itself.
    async fn alone(&mut self, lone: Lone) -> Result<(), sqlx::Error> {
        let Lone { at, counted } = lone;
        if !counted {
            attempts::begin(&self.shop.pool, L::QUEUE_GROUP, &self.ids(&[at])).await?;
        }
        match self.effect(&[at], true).await {
            Ok(usurped) => self.answer(vec![at], usurped).await,
            Err(Failure::Away(error)) => Err(error),
            Err(failure) => self.failed(vec![(at, failure)]).await,
        }
    }

    /// The events in these slots, which all were read.
    pub(crate) fn decoded(&self, slots: &[usize]) -> impl Iterator<Item = &Decoded<L::Events>> {
        slots.iter().filter_map(|at| self.slots[*at].event.as_ref().ok())
    }

    async fn effect(&self, slots: &[usize], counted: bool) -> Result<Vec<Usurped>, Failure> {
        let outcome = self.try_effect(slots, counted).await;
        if matches!(outcome, Err(Failure::Away(_) | Failure::Busy(_))) {
            self.note_in_vain(slots, counted);
        }
        outcome
    }

    fn note_in_vain(&self, slots: &[usize], counted: bool) {
        if counted {
            self.shop.note_in_vain(self.ids(slots));
        }
    }

    async fn try_effect(&self, slots: &[usize], counted: bool) -> Result<Vec<Usurped>, Failure> {
        let events: Vec<_> = self.decoded(slots).collect();
        let effect = self.shop.take_effect(&events, counted, None);
        match events.first().and_then(|decoded| decoded.trace) {
            // What one event causes belongs to its trace. Of a batch, no trace is the only one.
            Some(trace) if slots.len() == 1 => trace.child().scope(effect).await,
            _ => effect.await,
        }
    }
}
