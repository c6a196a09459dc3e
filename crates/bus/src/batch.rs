//! A batch of messages in a member's hands, from their delivery to an answer for each: together if
//! they can, one by one if they must, so that a bad one never holds back its neighbours.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_nats::Subject;
use tracing::{debug, error, info, warn};
use uuid::Uuid;

use crate::{
    attempts, database_is_away,
    dead_letters::{self, Dying},
    effect::{Decoded, Workshop, decode},
    held::{self, Held},
    inbox,
    listener::{Failure, Listener, MAX_ATTEMPTS, delay},
};

/// What came of a batch.
pub(crate) enum Outcome {
    /// Every message was answered for.
    Settled,
    /// The database is away; these were not answered for.
    Away(Vec<Held>),
}

struct Slot<E> {
    held: Held,
    event_id: Uuid,
    event: Result<Decoded<E>, String>,
    answered: bool,
}

struct Batch<L: Listener> {
    shop: Arc<Workshop<L>>,
    slots: Vec<Slot<L::Events>>,
}

/// Works on a batch until every message is answered for, or the database is away.
pub(crate) async fn settle<L: Listener>(shop: Arc<Workshop<L>>, messages: Vec<Held>) -> Outcome {
    let group = L::QUEUE_GROUP;
    let again = messages.iter().filter(|held| held.delivery > 1).count() as u64;
    metrics::counter!("bus_delivered_total", "group" => group).increment(messages.len() as u64);
    metrics::counter!("bus_redelivered_total", "group" => group).increment(again);
    let slots = messages.into_iter().map(|held| slot(&shop, held)).collect();
    let mut batch = Batch { shop, slots };
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
        Ok(event) => (event.received.id, Ok(event)),
        Err(bad) => (bad.id.unwrap_or_else(|| held.id_of_bytes()), Err(bad.reason)),
    };
    Slot { held, event_id, event, answered: false }
}

impl<L: Listener> Batch<L> {
    /// # Errors
    /// When the database cannot serve. Every other failure is an answer.
    async fn settle(&mut self) -> Result<(), sqlx::Error> {
        let (mut fresh, mut again) = (Vec::new(), Vec::new());
        for at in 0..self.slots.len() {
            match &self.slots[at].event {
                Err(reason) => {
                    let reason = reason.clone();
                    self.bury(at, &reason, 0).await?;
                }
                Ok(_) if self.slots[at].held.delivery == 1 => fresh.push(at),
                Ok(_) => again.push(at),
            }
        }
        let mut alone = self.together(fresh, false).await?;
        let mut tried = HashMap::new();
        if !again.is_empty() {
            let again = self.acknowledge_known(again).await?;
            tried = attempts::of(&self.shop.pool, L::QUEUE_GROUP, &self.ids(&again)).await?;
            // Whoever had these before may have been killed by one of them. Together once more, on
            // record; the next time, each by itself.
            let (suspects, untried): (Vec<_>, Vec<_>) =
                again.into_iter().partition(|at| tried.contains_key(&self.slots[*at].event_id));
            if !untried.is_empty() {
                attempts::begin(&self.shop.pool, L::QUEUE_GROUP, &self.ids(&untried)).await?;
                alone.extend(self.together(untried, true).await?);
            }
            alone.extend(suspects);
        }
        for at in alone {
            let before = tried.remove(&self.slots[at].event_id);
            self.alone(at, before).await?;
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

    /// Acknowledges what took effect before. Returns the rest.
    async fn acknowledge_known(&mut self, slots: Vec<usize>) -> Result<Vec<usize>, sqlx::Error> {
        let (pool, ids) = (&self.shop.pool, self.ids(&slots));
        let seen = pool
            .run(async |connection| inbox::seen(connection, L::QUEUE_GROUP, &ids).await)
            .await?;
        let (known, rest): (Vec<_>, Vec<_>) =
            slots.into_iter().partition(|at| seen.contains(&self.slots[*at].event_id));
        metrics::counter!("bus_duplicates_total", "group" => L::QUEUE_GROUP)
            .increment(known.len() as u64);
        self.acknowledge(&known).await;
        Ok(rest)
    }

    /// Lets events take effect in one transaction. Returns those to try one by one.
    async fn together(
        &mut self,
        slots: Vec<usize>,
        counted: bool,
    ) -> Result<Vec<usize>, sqlx::Error> {
        if let [at] = slots[..] {
            let outcome = self.effect(&slots, counted).await;
            self.answer(at, outcome).await?;
            return Ok(Vec::new());
        }
        if slots.is_empty() {
            return Ok(slots);
        }
        match self.effect(&slots, counted).await {
            Ok(()) => {
                self.acknowledge(&slots).await;
                Ok(Vec::new())
            }
            Err(Failure::Away(error)) => Err(error),
            Err(failure) => {
                debug!(events = slots.len(), %failure, "a batch failed, trying its events one by one");
                Ok(slots)
            }
        }
    }

    /// Lets one event take effect by itself, unless it was tried too often `before`.
    async fn alone(&mut self, at: usize, before: Option<(i32, String)>) -> Result<(), sqlx::Error> {
        if let Some((attempts, last_error)) = before
            && attempts >= MAX_ATTEMPTS
        {
            return self.bury(at, &last_error, attempts).await;
        }
        attempts::begin(&self.shop.pool, L::QUEUE_GROUP, &[self.slots[at].event_id]).await?;
        let outcome = self.effect(&[at], true).await;
        self.answer(at, outcome).await
    }

    async fn effect(&self, slots: &[usize], counted: bool) -> Result<(), Failure> {
        let outcome = self.try_effect(slots, counted).await;
        if counted && matches!(outcome, Err(Failure::Away(_) | Failure::Busy(_))) {
            self.shop.note_in_vain(self.ids(slots));
        }
        outcome
    }

    async fn try_effect(&self, slots: &[usize], counted: bool) -> Result<(), Failure> {
        let events = || slots.iter().filter_map(|at| self.slots[*at].event.as_ref().ok());
        let received: Vec<_> = events().map(|decoded| &decoded.received).collect();
        let effect = self.shop.take_effect(&received, counted, None);
        match events().next().and_then(|decoded| decoded.trace) {
            // What one event causes belongs to its trace. Of a batch, no trace is the only one.
            Some(trace) if slots.len() == 1 => trace.child().scope(effect).await,
            _ => effect.await,
        }
    }

    /// Answers for one event by what came of it.
    async fn answer(&mut self, at: usize, outcome: Result<(), Failure>) -> Result<(), sqlx::Error> {
        match outcome {
            Ok(()) => self.acknowledge(&[at]).await,
            Err(Failure::Away(error)) => return Err(error),
            Err(Failure::Reject(reason)) => self.bury(at, &reason, 1).await?,
            Err(Failure::Busy(error)) => {
                let held = &self.slots[at].held;
                let delay = delay(i32::try_from(held.delivery).unwrap_or(i32::MAX));
                self.give_back(at, 0, &error.to_string(), delay).await;
            }
            Err(Failure::Retry(error)) => {
                let (reason, event) = (format!("{error:#}"), self.slots[at].event_id);
                let attempts =
                    attempts::failed(&self.shop.pool, L::QUEUE_GROUP, event, &reason).await?;
                if attempts >= MAX_ATTEMPTS {
                    return self.bury(at, &reason, attempts).await;
                }
                self.give_back(at, attempts, &reason, delay(attempts)).await;
            }
        }
        Ok(())
    }

    /// Gives back one event, to be tried again after a delay.
    async fn give_back(&mut self, at: usize, attempts: i32, reason: &str, delay: Duration) {
        let slot = &mut self.slots[at];
        warn!(
            event.id = %slot.event_id, attempts, error = reason, retry.ms = delay.as_millis(),
            queue.group = L::QUEUE_GROUP, "an event failed and will be tried again",
        );
        metrics::counter!("bus_retried_total", "group" => L::QUEUE_GROUP).increment(1);
        held::give_back(&self.shop.bus.client, &slot.held.reply, delay).await;
        slot.answered = true;
    }

    /// Acknowledges events whose effect is committed.
    async fn acknowledge(&mut self, slots: &[usize]) {
        let replies: Vec<Subject> =
            slots.iter().map(|at| self.slots[*at].held.reply.clone()).collect();
        let confirmed = held::acknowledge(&self.shop.bus.client, &replies).await;
        for at in slots {
            let slot = &mut self.slots[*at];
            slot.answered = true;
            let Ok(event) = &slot.event else { continue };
            info!(
                event.id = %slot.event_id,
                event.r#type = %slot.held.subject,
                event.subject = event.about,
                event.sequence = slot.held.sequence,
                event.delivery = slot.held.delivery,
                queue.group = L::QUEUE_GROUP,
                client.id = %self.shop.client_id,
                trace.id = event.trace.map(|trace| trace.trace_id()),
                "event handled",
            );
        }
        match confirmed {
            Ok(()) => metrics::counter!("bus_acked_total", "group" => L::QUEUE_GROUP)
                .increment(slots.len() as u64),
            // They will come again, and find themselves in the inbox.
            Err(error) => warn!(events = slots.len(), %error, "acks were not confirmed"),
        }
    }

    /// Makes a dead letter of an event.
    async fn bury(&mut self, at: usize, reason: &str, attempts: i32) -> Result<(), sqlx::Error> {
        let slot = &mut self.slots[at];
        let dying = Dying {
            group: L::QUEUE_GROUP,
            event_id: slot.event_id,
            subject: &slot.held.subject,
            payload: &slot.held.payload,
            headers: slot.held.headers_json(),
            stream: &slot.held.stream,
            stream_sequence: i64::try_from(slot.held.sequence).unwrap_or(i64::MAX),
            reason,
            attempts,
            client_id: &self.shop.client_id,
        };
        self.shop.pool.transaction(async |tx| dead_letters::bury(tx, &dying).await).await?;
        error!(
            event.id = %slot.event_id, event.r#type = %slot.held.subject,
            event.sequence = slot.held.sequence, queue.group = L::QUEUE_GROUP, reason, attempts,
            "an event became a dead letter",
        );
        metrics::counter!("bus_dead_lettered_total", "group" => L::QUEUE_GROUP).increment(1);
        let told = held::terminate(&self.shop.bus.client, &slot.held.reply, reason).await;
        if let Err(error) = told {
            debug!(%error, "the end of a dead letter was not confirmed");
        }
        slot.answered = true;
        Ok(())
    }
}
