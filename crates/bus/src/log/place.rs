//! Places in the order of the log.

/// A place in the log: the transaction that wrote a row, and the row's position.
///
/// Rows become visible in commit order, which is a different order. So the published part of the log is
/// always a snapshot, never "everything up to a place".
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

    /// The place stored in two columns, which are null at the start of a step.
    pub(crate) fn of(transaction: Option<i64>, position: Option<i64>) -> Self {
        match (transaction, position) {
            (Some(transaction), Some(position)) => Self { transaction, position },
            _ => Self::START,
        }
    }
}
