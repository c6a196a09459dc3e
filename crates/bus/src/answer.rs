//! A member's answers for the events in its hands, each given for many at once: acknowledged, given
//! back for another try, or made a dead letter.

use std::time::Duration;

use async_nats::Subject;
use sqlx::PgConnection;
use tracing::{info, warn};

use crate::{
    attempts,
    batch::Batch,
    effect::IdConflict,
    in_flight,
    inbox::{self, Claim, Standing},
    listener::{Failure, Listener, MAX_ATTEMPTS, delay},
    undeliverable::Undeliverable,
};

/// How often an event is delivered that only a newer release can read, before a member that cannot makes it a
/// dead letter: about five minutes, for a member that can to get hold of it. Not longer, because after a
/// rollback nobody can, and each that waits counts as unacknowledged.
pub(crate) const NEWER_DELIVERIES: i64 = 120;
/// The longest delay between two of them. Short, because each goes to whichever member asks first.
const NEWER_DELAY: Duration = Duration::from_secs(3);

impl<L: Listener> Batch<L> {
    /// Acknowledges events whose effect is committed.
    pub(crate) async fn acknowledge(&mut self, slots: &[usize]) {
        let replies: Vec<Subject> =
            slots.iter().map(|at| self.slots[*at].message.reply.clone()).collect();
        let confirmed = if self.context.bus.is_on(self.epoch) {
            in_flight::acknowledge(&self.context.bus.client, &replies).await
        } else {
            Err(anyhow::anyhow!("the connection on which they came is gone"))
        };
        for at in slots {
            let slot = &mut self.slots[*at];
            slot.answered = true;
            let Ok(event) = &slot.event else { continue };
            info!(
                event.id = %slot.event_id,
                event.r#type = %slot.message.subject,
                event.subject = event.entity_id,
                event.sequence = slot.message.sequence,
                event.delivery = slot.message.delivery,
                queue.group = L::QUEUE_GROUP,
                client.id = %self.context.client_id,
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

    /// Acknowledges what took effect before, and makes dead letters of what bears another event's id.
    /// Returns the rest.
    pub(crate) async fn acknowledge_known(
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

    /// Makes dead letters of events that cannot be checked, except for those that are known all the
    /// same.
    pub(crate) async fn dead_letter_uncheckable(
        &mut self,
        undeliverable: Vec<Undeliverable>,
    ) -> Result<(), sqlx::Error> {
        if undeliverable.is_empty() {
            return Ok(());
        }
        let slots = undeliverable.iter().map(|event| event.at).collect();
        let unknown = self.acknowledge_known(slots).await?;
        let unknown = undeliverable.into_iter().filter(|event| unknown.contains(&event.at));
        self.dead_letter(unknown.collect()).await
    }

    /// Answers for events that took effect together, but for those whose id is another's.
    pub(crate) async fn answer(
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

    /// Answers for events that failed by themselves: dead letters, or given back for another try.
    pub(crate) async fn failed(
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
                    self.give_back(at, 0, &error.to_string(), delay).await;
                }
                Failure::Reject(reason) => {
                    undeliverable.push(Undeliverable {
                        at,
                        reason,
                        attempts: 1,
                        id_conflict: false,
                    });
                }
                Failure::Retry(error) => retried.push((at, format!("{error:#}"))),
            }
        }
        if !retried.is_empty() {
            let reasons: Vec<_> = retried
                .iter()
                .map(|(at, reason)| (self.slots[*at].event_id, reason.clone()))
                .collect();
            let counts = attempts::failed(&self.context.pool, L::QUEUE_GROUP, &reasons).await?;
            for (at, reason) in retried {
                let attempts = counts.get(&self.slots[at].event_id).copied().unwrap_or(1);
                if attempts >= MAX_ATTEMPTS {
                    undeliverable.push(Undeliverable { at, reason, attempts, id_conflict: false });
                } else {
                    self.give_back(at, attempts, &reason, delay(attempts)).await;
                }
            }
        }
        self.dead_letter(undeliverable).await
    }

    /// Gives events back that a member of a newer release may read.
    pub(crate) async fn leave_to_newer_members(&mut self, events: Vec<(usize, String)>) {
        for (at, reason) in events {
            let deliveries = i32::try_from(self.slots[at].message.delivery).unwrap_or(i32::MAX);
            self.give_back(at, 0, &reason, newer_delay(deliveries)).await;
        }
    }

    /// Gives one event back, to be tried again after a delay.
    async fn give_back(&mut self, at: usize, attempts: i32, reason: &str, delay: Duration) {
        let slot = &mut self.slots[at];
        warn!(
            event.id = %slot.event_id, attempts, error = reason, retry.ms = delay.as_millis(),
            queue.group = L::QUEUE_GROUP, "an event failed and will be tried again",
        );
        metrics::counter!("bus_retried_total", "group" => L::QUEUE_GROUP).increment(1);
        if self.context.bus.is_on(self.epoch) {
            in_flight::give_back(&self.context.bus.client, &slot.message.reply, delay).await;
        }
        slot.answered = true;
    }
}

/// How long an event that only a newer release can read stays away from members. Random up to the end: after the
/// same time, it would find the same member first in the queue.
fn newer_delay(deliveries: i32) -> Duration {
    let longest = NEWER_DELAY.mul_f64(rand::random_range(0.5..=1.0));
    delay(deliveries).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_for_newer_members_comes_back_after_a_different_time_each_time() {
        for deliveries in [4, 5, 50, 119] {
            let delays: Vec<Duration> = (0..100).map(|_| newer_delay(deliveries)).collect();
            let (least, most) = (delays.iter().min().unwrap(), delays.iter().max().unwrap());
            assert!(*least >= NEWER_DELAY / 2 && *most <= NEWER_DELAY, "{least:?} {most:?}");
            assert!(*most - *least > NEWER_DELAY / 8, "{least:?} {most:?}");
        }
    }
}
