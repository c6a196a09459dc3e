//! Settles a batch: from delivery to an answer for each message. Good events commit together, even with bad
//! ones among them. An event that may have killed its process is tried alone.

use std::sync::Arc;

use time::OffsetDateTime;
use tracing::{Instrument, debug, error, error_span, warn};

use crate::{
    answer::NEWER_DELIVERIES,
    attempts,
    batch::{Batch, Outcome, Slot},
    decode::decode,
    effect::{IdConflict, MemberContext},
    error::{database_is_away, database_is_gone},
    in_flight::InFlight,
    inbox,
    listener::{Failure, Listener},
    split::{Size, Verdict},
    undeliverable::Undeliverable,
};

/// An event to be tried in a transaction of its own.
struct SingleEvent {
    at: usize,
    /// Whether this attempt was counted.
    counted: bool,
}

/// Processes a batch until every message is answered, or the database is unavailable.
pub(crate) async fn settle<L: Listener>(
    context: Arc<MemberContext<L>>,
    messages: Vec<InFlight>,
    epoch: u64,
) -> Outcome {
    let group = L::QUEUE_GROUP;
    let again = messages.iter().filter(|message| message.delivery > 1).count() as u64;
    metrics::counter!("bus_delivered_total", "group" => group).increment(messages.len() as u64);
    metrics::counter!("bus_redelivered_total", "group" => group).increment(again);
    let span = error_span!(
        parent: None,
        "batch",
        events = messages.len(),
        queue.group = group,
        client.id = %context.client_id,
    );
    let slots = messages.into_iter().map(|message| slot(&context, message)).collect();
    let mut batch = Batch { context, slots, epoch };
    match batch.settle().instrument(span).await {
        Ok(()) => Outcome::Settled,
        Err(error) => {
            let database = batch.context.pool.database_state();
            if database.is_away() || (database.is_watched() && database_is_gone(&error)) {
                debug!(queue.group = group, %error, "the database is unavailable, returning events");
            } else if database_is_away(&error) {
                warn!(queue.group = group, %error, "the database is unavailable, returning events");
            } else {
                // The bus's own tables are at fault, not an event.
                error!(queue.group = group, %error, "a database error, returning events");
            }
            let open = batch.slots.into_iter().filter(|slot| !slot.message.in_hand.is_answered());
            Outcome::Away(open.map(|slot| slot.message).collect())
        }
    }
}

fn slot<L: Listener>(context: &MemberContext<L>, message: InFlight) -> Slot<L::Events> {
    let (event_id, event) =
        match decode::<L>(&message.subject, &message.payload, &context.client_id) {
            Ok(mut event) => {
                event.claim.delivered_at = Some(message.delivered_at);
                (event.claim.id, Ok(event))
            }
            // Not the id in the message, which may be another event's.
            Err(bad) => (message.id_of_bytes(), Err(bad)),
        };
    Slot { message, event_id, event }
}

impl<L: Listener> Batch<L> {
    /// # Errors
    /// When the database is unavailable. Every other failure is answered.
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
        // First those that are probably good: they do not wait for the others.
        let mut singles = self.process_batch(fresh, false).await?;
        self.retry_on_newer_release(newer).await;
        self.dead_letter(unreadable).await?;
        self.dead_letter_uncheckable(uncheckable).await?;
        if !again.is_empty() {
            singles.extend(self.process_redelivered(again).await?);
        }
        for event in singles {
            self.process_one(event).await?;
        }
        if self.context.has_interrupted() {
            // A lock interrupted them. Uncounted at once, because they may be redelivered before the upkeep
            // runs.
            self.context.uncount_interrupted().await?;
        }
        Ok(())
    }

    /// Processes events that were delivered before. Returns those to try alone.
    async fn process_redelivered(
        &mut self,
        slots: Vec<usize>,
    ) -> Result<Vec<SingleEvent>, sqlx::Error> {
        let slots = self.settle_duplicates(slots).await?;
        let tried = attempts::of(&self.context.pool, L::QUEUE_GROUP, &self.ids(&slots)).await?;
        let (mut untried, mut suspects) = (Vec::new(), Vec::new());
        let (mut given_up, mut singles) = (Vec::new(), Vec::new());
        for at in slots {
            match tried.get(&self.slots[at].event_id) {
                // One of these may have killed the member that had them. Try them together once more,
                // with the attempt counted; the next time, each alone.
                None => untried.push(at),
                Some(tried) if tried.attempts >= self.context.bus.options.max_attempts => given_up
                    .push(Undeliverable {
                        at,
                        reason: tried.last_error.clone(),
                        attempts: tried.attempts,
                        id_conflict: false,
                    }),
                Some(tried) if tried.was_interrupted() => {
                    singles.push(SingleEvent { at, counted: false })
                }
                // They failed, and killed no process: one transaction, apart from fresh events.
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

    /// Processes events in one transaction. Returns those to try alone.
    async fn process_batch(
        &mut self,
        slots: Vec<usize>,
        counted: bool,
    ) -> Result<Vec<SingleEvent>, sqlx::Error> {
        if slots.is_empty() {
            return Ok(Vec::new());
        }
        match self.effect(&slots, counted).await {
            Ok(id_conflicts) => self.settle_effects(slots, id_conflicts).await?,
            Err(Failure::Away(error)) => return Err(error),
            Err(failure) if slots.len() == 1 => {
                self.settle_failures(vec![(slots[0], failure)]).await?
            }
            Err(failure) => {
                debug!(events = slots.len(), %failure, "a batch failed, retrying in smaller pieces");
                return self.in_pieces(slots, Size::Pieces, counted).await;
            }
        }
        Ok(Vec::new())
    }

    /// Processes events in pieces, so that the good ones take effect, and answers the bad ones. Returns
    /// those to try alone.
    async fn in_pieces(
        &mut self,
        mut slots: Vec<usize>,
        mut size: Size,
        counted: bool,
    ) -> Result<Vec<SingleEvent>, sqlx::Error> {
        let mut singles = Vec::new();
        while !slots.is_empty() {
            let slots_before = slots.len();
            let events: Vec<_> = self.decoded(&slots).collect();
            let verdicts = match self.context.take_effect_in_pieces(&events, size, counted).await {
                Ok(verdicts) => verdicts,
                Err(Failure::Away(error)) => {
                    self.note_interrupted(&slots, counted);
                    return Err(error);
                }
                Err(failure) => {
                    debug!(events = slots.len(), %failure, "the pieces did not commit, retrying one by one");
                    // An interrupted attempt does not count.
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
            self.settle_failures(failed).await?;
            if untried.len() == slots_before {
                // Splitting used up the time before any verdict. Of single events, the first always gets one.
                size = Size::Single;
            }
            slots = untried;
        }
        Ok(singles)
    }

    /// Processes one event alone.
    async fn process_one(&mut self, event: SingleEvent) -> Result<(), sqlx::Error> {
        let SingleEvent { at, counted } = event;
        if !counted {
            attempts::begin(&self.context.pool, L::QUEUE_GROUP, &self.ids(&[at])).await?;
        }
        match self.effect(&[at], true).await {
            Ok(id_conflicts) => self.settle_effects(vec![at], id_conflicts).await,
            Err(Failure::Away(error)) => Err(error),
            Err(failure) => self.settle_failures(vec![(at, failure)]).await,
        }
    }

    async fn effect(&self, slots: &[usize], counted: bool) -> Result<Vec<IdConflict>, Failure> {
        let events: Vec<_> = self.decoded(slots).collect();
        let outcome = self.context.take_effect(&events, counted, None).await;
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
}
