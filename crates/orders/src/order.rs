//! What can become of an order:
//!
//! ```text
//!                     pay, in time
//!                  ┌──────────────▶ completed
//!   ─▶ reserved ───┤ cancel, in time
//!                  ├──────────────▶ cancelled
//!                  │ expire, when its time has passed
//!                  └──────────────▶ expired
//! ```
//!
//! The three on the right are for good. Which of the three it is, is decided here alone, by whoever
//! holds the order's row; the others find it decided.

use std::time::Duration;

use common::{
    bus::{
        BusError,
        outbox::{self, Sealed},
    },
    events::{
        money::Price,
        order::{
            Order, OrderCancelled, OrderCompleted, OrderCreated, OrderExpired, OrderStatus, Payment,
        },
    },
};
use time::OffsetDateTime;
use uuid::Uuid;

/// What somebody wants to become of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Its buyer has paid for it.
    Pay(Payment),
    /// Its buyer does not want it any more.
    Cancel,
    /// Its time has passed.
    Expire,
}

/// Why it cannot become of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is paid.
    #[error("The order is completed: it was paid.")]
    Completed,
    /// It was given back.
    #[error("The order was cancelled.")]
    Cancelled,
    /// Its time has passed, whether or not somebody has noticed.
    #[error("The order has expired: it was not paid in time.")]
    Expired,
    /// Its time has not passed.
    #[error("The order's time has not passed yet.")]
    NotDue,
}

/// An order that reserves a ticket for some time from now.
#[must_use]
pub fn reserve(
    ticket_id: Uuid,
    buyer: &str,
    price: Price,
    now: OffsetDateTime,
    time: Duration,
) -> Order {
    Order {
        id: Uuid::now_v7(),
        ticket_id,
        buyer: buyer.to_owned(),
        price,
        status: OrderStatus::Reserved,
        version: 1,
        expires_at: now + time,
        created_at: now,
        updated_at: now,
        payment: None,
    }
}

/// What becomes of an order by a command: its next version, or `None` when it has become that already.
///
/// # Errors
/// When something else has become of it.
pub fn decide(
    order: &Order,
    command: Command,
    now: OffsetDateTime,
) -> Result<Option<Order>, Refused> {
    use OrderStatus::{Cancelled, Completed, Expired, Reserved};

    let due = now >= order.expires_at;
    let (status, payment) = match (order.status, command) {
        (Reserved, Command::Pay(payment)) if !due => (Completed, Some(payment)),
        (Reserved, Command::Cancel) if !due => (Cancelled, None),
        (Reserved, Command::Expire) if due => (Expired, None),
        (Reserved, Command::Expire) => return Err(Refused::NotDue),
        (Completed, Command::Pay(_))
        | (Cancelled, Command::Cancel)
        | (Expired, Command::Expire) => return Ok(None),
        (Completed, _) => return Err(Refused::Completed),
        (Cancelled, _) => return Err(Refused::Cancelled),
        (Reserved | Expired, _) => return Err(Refused::Expired),
    };
    Ok(Some(Order {
        status,
        payment,
        version: order.version + 1,
        // Clocks of databases may be set back; an order's time never runs backwards all the same.
        updated_at: now.max(order.updated_at),
        ..order.clone()
    }))
}

/// The event that tells of an order's newest version, as part of the current trace.
///
/// # Errors
/// When it does not serialize.
pub fn seal(order: Order) -> Result<Sealed, BusError> {
    match order.status {
        OrderStatus::Reserved => outbox::seal(&OrderCreated(order)),
        OrderStatus::Completed => outbox::seal(&OrderCompleted(order)),
        OrderStatus::Cancelled => outbox::seal(&OrderCancelled(order)),
        OrderStatus::Expired => outbox::seal(&OrderExpired(order)),
    }
}
