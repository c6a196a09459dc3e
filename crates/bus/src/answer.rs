//! A member's answers for the events in its hands, each given for many at once: acknowledged, given
//! back for another try, or made a dead letter.

use std::time::Duration;

use async_nats::Subject;
use sqlx::PgConnection;
use tracing::{debug, error, info, warn};

use crate::{
    attempts,
    batch::Batch,
    dead_letters::{self, Dying},
    held,
    listener::{Failure, Listener, MAX_ATTEMPTS, delay},
};

/// How many dead letters are written in one transaction. A message may be a megabyte.
const BURIED_AT_ONCE: usize = 32;

/// How often an event is delivered that only a newer release can read, before a member that cannot makes it a
/// dead letter: about five minutes, for a member that can to get hold of it. Not longer, because after a
/// rollback nobody can, and each that waits counts as unacknowledged.
pub(crate) const NEWER_DELIVERIES: i64 = 120;
/// The longest delay between two of them. Short, because each goes to whichever member asks first.
const NEWER_DELAY: Duration = Duration::from_secs(3);

/// An event that is to become a dead letter.
pub(crate) struct Grave {
    pub(crate) at: usize,
    pub(crate) reason: String,
    pub(crate) attempts: i32,
}

impl<L: Listener> Batch<L> {
    /// Acknowledges events whose effect is committed.
    pub(crate) async fn acknowledge(&mut self, slots: &[usize]) {
        let replies: Vec<Subject> =
            slots.iter().map(|at| self.slots[*at].held.reply.clone()).collect();
        let confirmed = if self.shop.bus.is_on(self.epoch) {
            held::acknowledge(&self.shop.bus.client, &replies).await
        } else {
            Err(anyhow::anyhow!("the connection on which they came is gone"))
        };
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

    /// Answers for events that failed by themselves: dead letters, or given back for another try.
    pub(crate) async fn failed(
        &mut self,
        failed: Vec<(usize, Failure)>,
    ) -> Result<(), sqlx::Error> {
        let (mut graves, mut retried) = (Vec::new(), Vec::new());
        for (at, failure) in failed {
            match failure {
                Failure::Away(error) => return Err(error),
                Failure::Busy(error) => {
                    let delivery = self.slots[at].held.delivery;
                    let delay = delay(i32::try_from(delivery).unwrap_or(i32::MAX));
                    self.give_back(at, 0, &error.to_string(), delay).await;
                }
                Failure::Reject(reason) => graves.push(Grave { at, reason, attempts: 1 }),
                Failure::Retry(error) => retried.push((at, format!("{error:#}"))),
            }
        }
        if !retried.is_empty() {
            let reasons: Vec<_> = retried
                .iter()
                .map(|(at, reason)| (self.slots[*at].event_id, reason.clone()))
                .collect();
            let counts = attempts::failed(&self.shop.pool, L::QUEUE_GROUP, &reasons).await?;
            for (at, reason) in retried {
                let attempts = counts.get(&self.slots[at].event_id).copied().unwrap_or(1);
                if attempts >= MAX_ATTEMPTS {
                    graves.push(Grave { at, reason, attempts });
                } else {
                    self.give_back(at, attempts, &reason, delay(attempts)).await;
                }
            }
        }
        self.bury(graves).await
    }

    /// Gives events back that a member of a newer release may read.
    pub(crate) async fn leave_to_newer_members(&mut self, events: Vec<(usize, String)>) {
        for (at, reason) in events {
            let deliveries = i32::try_from(self.slots[at].held.delivery).unwrap_or(i32::MAX);
            self.give_back(at, 0, &reason, delay(deliveries).min(NEWER_DELAY)).await;
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
        if self.shop.bus.is_on(self.epoch) {
            held::give_back(&self.shop.bus.client, &slot.held.reply, delay).await;
        }
        slot.answered = true;
    }

    /// Makes dead letters of events.
    pub(crate) async fn bury(&mut self, graves: Vec<Grave>) -> Result<(), sqlx::Error> {
        for graves in graves.chunks(BURIED_AT_ONCE) {
            let dying: Vec<Dying<'_>> = graves.iter().map(|grave| self.dying(grave)).collect();
            let client = &self.shop.client_id;
            let bury = async |tx: &mut PgConnection| {
                dead_letters::bury(tx, L::QUEUE_GROUP, client, &dying).await
            };
            self.shop.pool.transaction(bury).await?;
            metrics::counter!("bus_dead_lettered_total", "group" => L::QUEUE_GROUP)
                .increment(graves.len() as u64);
            let mut told = Vec::new();
            for Grave { at, reason, attempts } in graves {
                let slot = &mut self.slots[*at];
                error!(
                    event.id = %slot.event_id, event.r#type = %slot.held.subject,
                    event.sequence = slot.held.sequence, queue.group = L::QUEUE_GROUP, reason,
                    attempts, "an event became a dead letter",
                );
                slot.answered = true;
                told.push((slot.held.reply.clone(), reason.as_str()));
            }
            if self.shop.bus.is_on(self.epoch)
                && let Err(error) = held::terminate(&self.shop.bus.client, &told).await
            {
                debug!(%error, "the end of dead letters was not confirmed");
            }
        }
        Ok(())
    }

    fn dying<'a>(&'a self, grave: &'a Grave) -> Dying<'a> {
        let slot = &self.slots[grave.at];
        Dying {
            event_id: slot.event_id,
            subject: &slot.held.subject,
            payload: &slot.held.payload,
            headers: slot.held.headers_json(),
            stream: &slot.held.stream,
            stream_sequence: i64::try_from(slot.held.sequence).unwrap_or(i64::MAX),
            reason: &grave.reason,
            attempts: grave.attempts,
        }
    }
}
