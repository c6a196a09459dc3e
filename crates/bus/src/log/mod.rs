//! The outbox as a log, and what the relay knows of it.
//!
//! An event is one row that never changes. A stream's [`Cursor`](cursor::Cursor) says which rows have
//! been published, [`Ranges`](ranges::Ranges) say where they went, so that what a stream loses can be
//! found and published again. All of it is written by whoever holds the stream's [`session`], and by
//! nobody else.

pub(crate) mod cursor;
pub(crate) mod import;
pub(crate) mod losses;
pub(crate) mod page;
pub(crate) mod publish;
pub(crate) mod ranges;
pub(crate) mod refill;
pub(crate) mod remake;
pub(crate) mod retention;
pub(crate) mod session;
pub(crate) mod step;
pub(crate) mod stream_relay;
pub(crate) mod verify;
pub(crate) mod wake;

/// A place in the log's order: the transaction that wrote a row, and the row's position.
///
/// Rows become visible in the order of their commits, not in this one. What has been published is
/// therefore never "everything up to a place" but a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) transaction: i64,
    pub(crate) position: i64,
}

impl Place {
    /// Before every row.
    pub(crate) const START: Self = Self { transaction: 0, position: 0 };
    /// After every row.
    pub(crate) const END: Self = Self { transaction: i64::MAX, position: i64::MAX };

    /// The place in two columns that are null at the start of a step.
    pub(crate) fn of(transaction: Option<i64>, position: Option<i64>) -> Self {
        match (transaction, position) {
            (Some(transaction), Some(position)) => Self { transaction, position },
            _ => Self::START,
        }
    }
}
