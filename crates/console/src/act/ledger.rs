//! Counts what the load posted: how much was answered 201, and how much of that has taken effect in orders,
//! ticket by ticket. It asks the services' APIs, because a restart resets their counters.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;
use time::OffsetDateTime;

/// How many tickets may wait to be seen in orders; a load that would need more is refused.
pub(super) const MAX_WAITING: usize = 60_000;

/// What loads have posted since the console started.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    sums: Sums,
    /// Answered 201 and not yet seen in orders: when, by the ticket's id.
    waiting: BTreeMap<String, OffsetDateTime>,
}

/// The sums. `accepted` always equals `applied` plus `waiting`: a ticket that is missing stays in `waiting`.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sums {
    /// Requests sent.
    pub sent: u64,
    /// Answered 201.
    pub accepted: u64,
    /// Answered otherwise: nothing was promised.
    pub refused: u64,
    /// Not answered: they may or may not have taken effect.
    pub unanswered: u64,
    /// Accepted, and seen in orders.
    pub applied: u64,
    /// Accepted, and not yet seen in orders.
    pub waiting: u64,
    /// When the oldest of those was accepted.
    #[serde(with = "time::serde::rfc3339::option")]
    pub waiting_since: Option<OffsetDateTime>,
    /// The id of the oldest.
    pub oldest: Option<String>,
    /// Whether a load is running.
    pub running: bool,
}

impl Ledger {
    /// The sums now.
    #[must_use]
    pub fn sums(&self) -> Sums {
        let inner = self.inner();
        let oldest = inner.waiting.iter().min_by_key(|(_, at)| **at);
        Sums {
            waiting: inner.waiting.len() as u64,
            waiting_since: oldest.map(|(_, at)| *at),
            oldest: oldest.map(|(id, _)| id.clone()),
            ..inner.sums.clone()
        }
    }

    /// Begins a load, unless one is running.
    pub(super) fn begin(&self) -> bool {
        let mut inner = self.inner();
        !std::mem::replace(&mut inner.sums.running, true)
    }

    pub(super) fn end(&self) {
        self.inner().sums.running = false;
    }

    pub(super) fn sent(&self) {
        self.inner().sums.sent += 1;
    }

    pub(super) fn accepted(&self, ticket: String) {
        let mut inner = self.inner();
        inner.sums.accepted += 1;
        inner.waiting.insert(ticket, OffsetDateTime::now_utc());
    }

    pub(super) fn refused(&self) {
        self.inner().sums.refused += 1;
    }

    pub(super) fn unanswered(&self) {
        self.inner().sums.unanswered += 1;
    }

    pub(super) fn applied(&self, ticket: &str) {
        let mut inner = self.inner();
        if inner.waiting.remove(ticket).is_some() {
            inner.sums.applied += 1;
        }
    }

    /// Up to `most` of the waiting tickets, oldest first: their ids sort by time.
    pub(super) fn waiting(&self, most: usize) -> Vec<String> {
        self.inner().waiting.keys().take(most).cloned().collect()
    }

    /// How many more may wait.
    pub(super) fn room(&self) -> usize {
        MAX_WAITING.saturating_sub(self.inner().waiting.len())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
