//! The events of a batch that become dead letters: stored many at once, and only then terminated on the
//! server.

use std::collections::HashMap;

use sqlx::PgConnection;
use tracing::{debug, error};
use uuid::Uuid;

use crate::{
    batch::Batch,
    in_flight,
    listener::Listener,
    new_dead_letter::{self, NewDeadLetter},
    spans,
};

/// About how many bytes of dead letters one transaction stores. A message may have a megabyte.
const MAX_TRANSACTION_BYTES: usize = 8 << 20;

/// An event that is to become a dead letter.
pub(crate) struct Undeliverable {
    pub(crate) at: usize,
    pub(crate) reason: String,
    pub(crate) attempts: i32,
    /// It has another event's id, so the dead letter gets an id of its own.
    pub(crate) id_conflict: bool,
}

impl Undeliverable {
    /// An event that no listener was called for.
    pub(crate) fn untried(at: usize, reason: String) -> Self {
        Self { at, reason, attempts: 0, id_conflict: false }
    }

    /// An event that has another event's id.
    pub(crate) fn id_conflict(at: usize, reason: String) -> Self {
        Self { at, reason, attempts: 0, id_conflict: true }
    }
}

impl<L: Listener> Batch<L> {
    /// Turns events into dead letters. The server is told only after they are committed.
    pub(crate) async fn dead_letter(
        &mut self,
        undeliverable: Vec<Undeliverable>,
    ) -> Result<(), sqlx::Error> {
        let mut undeliverable = self.copies_together(&undeliverable);
        while !undeliverable.is_empty() {
            let mut bytes = 0;
            let fits = |copies: &&Vec<&Undeliverable>| {
                bytes += self.slots[copies[0].at].message.payload.len();
                bytes <= MAX_TRANSACTION_BYTES
            };
            let size = undeliverable.iter().take_while(fits).count().max(1);
            let rest = undeliverable.split_off(size);
            let fresh: Vec<NewDeadLetter<'_>> =
                undeliverable.iter().map(|copies| self.new_dead_letter(copies)).collect();
            let client = &self.context.client_id;
            let insert = async |tx: &mut PgConnection| {
                new_dead_letter::insert(tx, L::QUEUE_GROUP, client, &fresh).await
            };
            self.context.pool.transaction(insert).await?;
            drop(fresh);
            self.log_and_terminate(&undeliverable).await;
            undeliverable = rest;
        }
        Ok(())
    }

    /// Groups events of the same bytes, in the order of the first of each group.
    fn copies_together<'a>(
        &self,
        undeliverable: &'a [Undeliverable],
    ) -> Vec<Vec<&'a Undeliverable>> {
        let mut places = HashMap::new();
        let mut together: Vec<Vec<&Undeliverable>> = Vec::new();
        for event in undeliverable {
            let slot = &self.slots[event.at];
            let same = (self.letter_id(event), &slot.message.payload);
            let place = *places.entry(same).or_insert(together.len());
            match together.get_mut(place) {
                Some(copies) => copies.push(event),
                None => together.push(vec![event]),
            }
        }
        together
    }

    fn letter_id(&self, event: &Undeliverable) -> Uuid {
        let slot = &self.slots[event.at];
        if event.id_conflict { slot.message.id_of_bytes() } else { slot.event_id }
    }

    /// Logs dead letters that were committed, and terminates their messages on the server.
    async fn log_and_terminate(&mut self, undeliverable: &[Vec<&Undeliverable>]) {
        let mut told = Vec::new();
        for copies in undeliverable {
            let Undeliverable { at, reason, attempts, .. } = copies[0];
            let slot = &self.slots[*at];
            self.log_span(*at).in_scope(|| {
                error!(
                    event.sequence = slot.message.sequence,
                    copies = copies.len(),
                    reason,
                    attempts,
                    "event became a dead letter",
                );
            });
            for event in copies {
                let slot = &self.slots[event.at];
                slot.message.answering();
                spans::failed(slot.process(), &event.reason);
                told.push((slot.message.in_hand.reply.clone(), event.reason.as_str()));
            }
        }
        metrics::counter!("bus_dead_lettered_total", "group" => L::QUEUE_GROUP)
            .increment(told.len() as u64);
        if self.context.bus.is_on(self.epoch)
            && let Err(error) = in_flight::terminate(&self.context.bus.client, &told).await
        {
            debug!(%error, "the termination of dead letters was not confirmed");
        }
    }

    /// The dead letter for the copies of one message.
    fn new_dead_letter<'a>(&'a self, copies: &[&'a Undeliverable]) -> NewDeadLetter<'a> {
        let first = copies[0];
        let slot = &self.slots[first.at];
        NewDeadLetter {
            event_id: self.letter_id(first),
            id_of_bytes: slot.message.id_of_bytes(),
            subject: &slot.message.subject,
            payload: &slot.message.payload,
            headers: slot.message.headers_json(),
            stream: &slot.message.stream,
            sequences: copies.iter().map(|event| self.slots[event.at].message.sequence).collect(),
            reason: &first.reason,
            attempts: first.attempts,
        }
    }
}
