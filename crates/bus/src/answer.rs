//! A member's answers for the events in its hands, each given for many at once: acknowledged, given
//! back for another try, or made a dead letter.

use std::{collections::HashMap, time::Duration};

use async_nats::Subject;
use sqlx::PgConnection;
use tracing::{debug, error, info, warn};
use uuid::Uuid;

use crate::{
    attempts,
    batch::Batch,
    burial::{self, Dying},
    effect::Usurped,
    held,
    inbox::{self, Claim, Standing},
    listener::{Failure, Listener, MAX_ATTEMPTS, delay},
};

/// How many bytes of dead letters are written in one transaction, about. A message may be a megabyte.
const BURIED_AT_ONCE: usize = 8 << 20;

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
    /// Its id is another event's, so that the dead letter has one of its own.
    pub(crate) usurped: bool,
}

impl Grave {
    /// That of an event for which nobody was called.
    pub(crate) fn untried(at: usize, reason: String) -> Self {
        Self { at, reason, attempts: 0, usurped: false }
    }

    /// That of an event whose id is another's.
    pub(crate) fn usurped(at: usize, reason: String) -> Self {
        Self { at, reason, attempts: 0, usurped: true }
    }
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
        let standings = self.shop.pool.run(ask).await?;
        let (mut known, mut usurped, mut rest) = (Vec::new(), Vec::new(), Vec::new());
        for (at, standing) in slots.into_iter().zip(standings) {
            match standing {
                Standing::Known => known.push(at),
                Standing::Usurped(reason) => usurped.push(Grave::usurped(at, reason)),
                Standing::New | Standing::Twin(_) => rest.push(at),
            }
        }
        metrics::counter!("bus_duplicates_total", "group" => L::QUEUE_GROUP)
            .increment(known.len() as u64);
        self.acknowledge(&known).await;
        self.bury(usurped).await?;
        Ok(rest)
    }

    /// Makes dead letters of events that cannot be checked, except for those that are known all the
    /// same.
    pub(crate) async fn bury_uncheckable(&mut self, graves: Vec<Grave>) -> Result<(), sqlx::Error> {
        if graves.is_empty() {
            return Ok(());
        }
        let slots = graves.iter().map(|grave| grave.at).collect();
        let unknown = self.acknowledge_known(slots).await?;
        let unknown = graves.into_iter().filter(|grave| unknown.contains(&grave.at));
        self.bury(unknown.collect()).await
    }

    /// Answers for events that took effect together, but for those whose id is another's.
    pub(crate) async fn answer(
        &mut self,
        slots: Vec<usize>,
        usurped: Vec<Usurped>,
    ) -> Result<(), sqlx::Error> {
        let graves: Vec<_> =
            usurped.into_iter().map(|(place, why)| Grave::usurped(slots[place], why)).collect();
        let is_dead = |at: &usize| graves.iter().any(|grave| grave.at == *at);
        let done: Vec<usize> = slots.into_iter().filter(|at| !is_dead(at)).collect();
        self.acknowledge(&done).await;
        self.bury(graves).await
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
                Failure::Reject(reason) => {
                    graves.push(Grave { at, reason, attempts: 1, usurped: false });
                }
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
                    graves.push(Grave { at, reason, attempts, usurped: false });
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

    /// Makes dead letters of events. Nothing is said to the server before they are committed.
    pub(crate) async fn bury(&mut self, graves: Vec<Grave>) -> Result<(), sqlx::Error> {
        let mut graves = self.copies_together(&graves);
        while !graves.is_empty() {
            let mut bytes = 0;
            let fits = |copies: &&Vec<&Grave>| {
                bytes += self.slots[copies[0].at].held.payload.len();
                bytes <= BURIED_AT_ONCE
            };
            let size = graves.iter().take_while(fits).count().max(1);
            let rest = graves.split_off(size);
            let dying: Vec<Dying<'_>> = graves.iter().map(|copies| self.dying(copies)).collect();
            let client = &self.shop.client_id;
            let bury = async |tx: &mut PgConnection| {
                burial::bury(tx, L::QUEUE_GROUP, client, &dying).await
            };
            self.shop.pool.transaction(bury).await?;
            drop(dying);
            self.say_that_they_are_dead(&graves).await;
            graves = rest;
        }
        Ok(())
    }

    /// Graves of the same bytes as one, in the order of the first of each.
    fn copies_together<'a>(&self, graves: &'a [Grave]) -> Vec<Vec<&'a Grave>> {
        let mut places = HashMap::new();
        let mut together: Vec<Vec<&Grave>> = Vec::new();
        for grave in graves {
            let slot = &self.slots[grave.at];
            let same = (self.letter_id(grave), &slot.held.payload);
            let place = *places.entry(same).or_insert(together.len());
            match together.get_mut(place) {
                Some(copies) => copies.push(grave),
                None => together.push(vec![grave]),
            }
        }
        together
    }

    fn letter_id(&self, grave: &Grave) -> Uuid {
        let slot = &self.slots[grave.at];
        if grave.usurped { slot.held.id_of_bytes() } else { slot.event_id }
    }

    /// What follows the commit of dead letters.
    async fn say_that_they_are_dead(&mut self, graves: &[Vec<&Grave>]) {
        let mut told = Vec::new();
        for copies in graves {
            let Grave { at, reason, attempts, .. } = copies[0];
            let slot = &self.slots[*at];
            error!(
                event.id = %slot.event_id, event.r#type = %slot.held.subject,
                event.sequence = slot.held.sequence, copies = copies.len(),
                queue.group = L::QUEUE_GROUP, reason, attempts, "an event became a dead letter",
            );
            for grave in copies {
                let slot = &mut self.slots[grave.at];
                slot.answered = true;
                told.push((slot.held.reply.clone(), grave.reason.as_str()));
            }
        }
        metrics::counter!("bus_dead_lettered_total", "group" => L::QUEUE_GROUP)
            .increment(told.len() as u64);
        if self.shop.bus.is_on(self.epoch)
            && let Err(error) = held::terminate(&self.shop.bus.client, &told).await
        {
            debug!(%error, "the end of dead letters was not confirmed");
        }
    }

    /// The dead letter of copies of one message.
    fn dying<'a>(&'a self, copies: &[&'a Grave]) -> Dying<'a> {
        let first = copies[0];
        let slot = &self.slots[first.at];
        Dying {
            event_id: self.letter_id(first),
            id_of_bytes: slot.held.id_of_bytes(),
            subject: &slot.held.subject,
            payload: &slot.held.payload,
            headers: slot.held.headers_json(),
            stream: &slot.held.stream,
            sequences: copies.iter().map(|grave| self.slots[grave.at].held.sequence).collect(),
            reason: &first.reason,
            attempts: first.attempts,
        }
    }
}
