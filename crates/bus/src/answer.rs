//! A member's answers to the events of a batch, many at a time: acknowledged, returned for a retry, or made
//! dead letters.

use std::time::Duration;

use async_nats::Subject;
use sqlx::PgConnection;
use tracing::{debug, info, warn};

use crate::{
    attempts,
    backoff::jittered,
    batch::Batch,
    effect::IdConflict,
    error::chain,
    in_flight::{self, AnswerError},
    inbox::{self, Claim, Standing},
    listener::{Failure, Listener, delay},
    spans,
    undeliverable::Undeliverable,
};

/// How often an event that only a newer release can read is delivered before an older member makes it a
/// dead letter: about five minutes for a newer member to get it. Not longer, because after a rollback no
/// member can read it, and each such event counts as unacknowledged.
pub(crate) const NEWER_DELIVERIES: i64 = 120;
/// The longest delay between those deliveries. Short, because each goes to whichever member pulls first.
const NEWER_DELAY: Duration = Duration::from_secs(3);

impl<L: Listener> Batch<L> {
    /// Acknowledges events whose effects are committed.
    pub(crate) async fn acknowledge(&mut self, slots: &[usize]) {
        let replies: Vec<Subject> =
            slots.iter().map(|at| self.slots[*at].message.in_hand.reply.clone()).collect();
        let confirmed = if self.context.bus.is_on(self.epoch) {
            in_flight::acknowledge(&self.context.bus.client, &replies).await
        } else {
            Err(AnswerError::Disconnected)
        };
        for at in slots {
            let slot = &self.slots[*at];
            slot.message.answering();
            let Ok(event) = &slot.event else { continue };
            let _in_event = event.received.span().enter();
            info!(
                notice = "event_handled",
                event.subject = event.entity_id,
                event.sequence = slot.message.sequence,
                event.delivery = slot.message.delivery,
                "event handled",
            );
        }
        match confirmed {
            Ok(()) => metrics::counter!("bus_acked_total", "group" => L::QUEUE_GROUP)
                .increment(slots.len() as u64),
            // They are redelivered, and the inbox recognizes them. The usual cause is an outage of NATS, which the
            // connection logs.
            Err(error) => debug!(events = slots.len(), %error, "acks were not confirmed"),
        }
    }

    /// Acknowledges events that took effect before, and turns those that have another event's id into dead
    /// letters. Returns the rest.
    pub(crate) async fn settle_duplicates(
        &mut self,
        slots: Vec<usize>,
    ) -> Result<Vec<usize>, sqlx::Error> {
        let claims: Vec<Claim> = self.decoded(&slots).map(|event| event.claim).collect();
        let ask = async |connection: &mut PgConnection| {
            inbox::known(connection, L::QUEUE_GROUP, &claims).await
        };
        let standings = self.context.pool.run(ask).await?;
        let (mut known, mut id_conflicts, mut rest) = (Vec::new(), Vec::new(), Vec::new());
        for (at, standing) in slots.into_iter().zip(standings) {
            match standing {
                Standing::Known => known.push(at),
                Standing::IdConflict(reason) => {
                    id_conflicts.push(Undeliverable::id_conflict(at, reason))
                }
                Standing::New | Standing::Twin(_) => rest.push(at),
            }
        }
        metrics::counter!("bus_duplicates_total", "group" => L::QUEUE_GROUP)
            .increment(known.len() as u64);
        self.acknowledge(&known).await;
        self.dead_letter(id_conflicts).await?;
        Ok(rest)
    }

    /// Turns events that the inbox cannot check into dead letters, unless it knows that they took effect.
    pub(crate) async fn dead_letter_uncheckable(
        &mut self,
        undeliverable: Vec<Undeliverable>,
    ) -> Result<(), sqlx::Error> {
        if undeliverable.is_empty() {
            return Ok(());
        }
        let slots = undeliverable.iter().map(|event| event.at).collect();
        let unknown = self.settle_duplicates(slots).await?;
        let unknown = undeliverable.into_iter().filter(|event| unknown.contains(&event.at));
        self.dead_letter(unknown.collect()).await
    }

    /// Acknowledges events that took effect together, and turns those that have another event's id into dead
    /// letters.
    pub(crate) async fn settle_effects(
        &mut self,
        slots: Vec<usize>,
        id_conflicts: Vec<IdConflict>,
    ) -> Result<(), sqlx::Error> {
        let undeliverable: Vec<_> = id_conflicts
            .into_iter()
            .map(|(place, why)| Undeliverable::id_conflict(slots[place], why))
            .collect();
        let is_dead = |at: &usize| undeliverable.iter().any(|event| event.at == *at);
        let done: Vec<usize> = slots.into_iter().filter(|at| !is_dead(at)).collect();
        self.acknowledge(&done).await;
        self.dead_letter(undeliverable).await
    }

    /// Answers events that failed on their own: returned for a retry, or made dead letters.
    pub(crate) async fn settle_failures(
        &mut self,
        failed: Vec<(usize, Failure)>,
    ) -> Result<(), sqlx::Error> {
        let (mut undeliverable, mut retried) = (Vec::new(), Vec::new());
        for (at, failure) in failed {
            match failure {
                Failure::Away(error) => return Err(error),
                Failure::Busy(error) => {
                    let delivery = self.slots[at].message.delivery;
                    let delay = delay(i32::try_from(delivery).unwrap_or(i32::MAX));
                    self.retry_later(at, 0, &error.to_string(), delay).await;
                }
                Failure::Reject(reason) => {
                    undeliverable.push(Undeliverable {
                        at,
                        reason,
                        attempts: 1,
                        id_conflict: false,
                    });
                }
                Failure::Retry(error) => retried.push((at, chain(&*error))),
            }
        }
        if !retried.is_empty() {
            let reasons: Vec<_> = retried
                .iter()
                .map(|(at, reason)| (self.slots[*at].event_id, reason.clone()))
                .collect();
            let counts =
                attempts::record_failures(&self.context.pool, L::QUEUE_GROUP, &reasons).await?;
            for (at, reason) in retried {
                let attempts = counts.get(&self.slots[at].event_id).copied().unwrap_or(1);
                if attempts >= self.context.bus.options.max_attempts {
                    undeliverable.push(Undeliverable { at, reason, attempts, id_conflict: false });
                } else {
                    self.retry_later(at, attempts, &reason, delay(attempts)).await;
                }
            }
        }
        self.dead_letter(undeliverable).await
    }

    /// Returns events that a member of a newer release may be able to read.
    pub(crate) async fn retry_on_newer_release(&mut self, events: Vec<(usize, String)>) {
        for (at, reason) in events {
            let deliveries = i32::try_from(self.slots[at].message.delivery).unwrap_or(i32::MAX);
            self.retry_later(at, 0, &reason, newer_delay(deliveries)).await;
        }
    }

    /// Returns one event, to be redelivered after a delay.
    async fn retry_later(&mut self, at: usize, attempts: i32, reason: &str, delay: Duration) {
        let slot = &self.slots[at];
        spans::failed(slot.process(), &reason);
        self.log_span(at).in_scope(|| {
            let retry = delay.as_millis();
            warn!(attempts, error = reason, retry.ms = retry, "event failed, retrying");
        });
        metrics::counter!("bus_retried_total", "group" => L::QUEUE_GROUP).increment(1);
        slot.message.answering();
        if self.context.bus.is_on(self.epoch) {
            in_flight::nak(&self.context.bus.client, &slot.message.in_hand.reply, delay).await;
        }
    }
}

/// The delay before an event that only a newer release can read is redelivered. Random up to its bound: with
/// a fixed delay, the event would meet the same member first in the queue each time.
fn newer_delay(deliveries: i32) -> Duration {
    jittered(NEWER_DELAY).min(delay(deliveries))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_only_a_newer_release_knows_is_redelivered_after_a_random_delay() {
        for deliveries in [4, 5, 50, 119] {
            let delays: Vec<Duration> = (0..100).map(|_| newer_delay(deliveries)).collect();
            let (least, most) = (delays.iter().min().unwrap(), delays.iter().max().unwrap());
            assert!(*least >= NEWER_DELAY / 2 && *most <= NEWER_DELAY, "{least:?} {most:?}");
            assert!(*most - *least > NEWER_DELAY / 8, "{least:?} {most:?}");
        }
    }
}
