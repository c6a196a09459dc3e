//! The outbox: an append-only log whose rows become visible in commit order.

use crate::bounds::Bounds;

/// An event, by its place in the log. A place is a transaction's number and a position. A
/// transaction's rows are consecutive, so one number stands for both.
pub type Event = u8;

/// The transactions that had ended when a snapshot was taken, one bit each: what a `pg_snapshot`
/// expresses by its `xmin`, its `xmax`, and its list of transactions in progress.
pub type Snapshot = u8;

/// The state of a transaction. Its number is its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transaction {
    /// Has no number yet.
    Waits,
    /// Has a number and has not committed.
    Open,
    /// Its rows are visible.
    Committed,
    /// Its rows will never be visible.
    Aborted,
}

/// A part of the log: visible in `target`, not in `done`, and between two places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Span {
    /// The previous snapshot.
    pub done: Snapshot,
    /// The snapshot that is being published.
    pub target: Snapshot,
    /// The first event.
    pub from: Event,
    /// The event after the last.
    pub to: Event,
}

/// Returns the snapshot that would be taken now.
#[must_use]
pub fn snapshot(transactions: &[Transaction]) -> Snapshot {
    let ended = |transaction: &Transaction| {
        matches!(transaction, Transaction::Committed | Transaction::Aborted)
    };
    let bits = transactions.iter().enumerate().filter(|(_, transaction)| ended(transaction));
    bits.fold(0, |snapshot, (number, _)| snapshot | 1 << number)
}

/// Returns the first events of a span, at most a page of them, and whether there may be more.
#[must_use]
pub fn page(bounds: &Bounds, transactions: &[Transaction], span: Span) -> (Vec<Event>, bool) {
    let is_in = |transaction: u8| {
        let bit = 1 << transaction;
        transactions[usize::from(transaction)] == Transaction::Committed
            && span.target & bit != 0
            && span.done & bit == 0
    };
    let events: Vec<Event> = (0..)
        .zip(bounds.writes)
        .filter(|(event, transaction)| (span.from..span.to).contains(event) && is_in(**transaction))
        .map(|(event, _)| event)
        .take(bounds.page)
        .collect();
    let full = events.len() == bounds.page;
    (events, full)
}
