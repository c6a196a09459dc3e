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
        outbox::{self, OutboxEvent},
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
pub enum Transition {
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
    command: Transition,
    now: OffsetDateTime,
) -> Result<Option<Order>, Refused> {
    use OrderStatus::{Cancelled, Completed, Expired, Reserved};

    let due = now >= order.expires_at;
    let (status, payment) = match (order.status, command) {
        (Reserved, Transition::Pay(payment)) if !due => (Completed, Some(payment)),
        (Reserved, Transition::Cancel) if !due => (Cancelled, None),
        (Reserved, Transition::Expire) if due => (Expired, None),
        (Reserved, Transition::Expire) => return Err(Refused::NotDue),
        (Completed, Transition::Pay(_))
        | (Cancelled, Transition::Cancel)
        | (Expired, Transition::Expire) => return Ok(None),
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
pub fn event(order: Order) -> Result<OutboxEvent, BusError> {
    match order.status {
        OrderStatus::Reserved => outbox::prepare(&OrderCreated(order)),
        OrderStatus::Completed => outbox::prepare(&OrderCompleted(order)),
        OrderStatus::Cancelled => outbox::prepare(&OrderCancelled(order)),
        OrderStatus::Expired => outbox::prepare(&OrderExpired(order)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use time::ext::NumericalDuration;

    use super::*;

    const START: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;
    const TIME: Duration = Duration::from_secs(10);

    fn price() -> Price {
        "20.50".parse().unwrap()
    }

    /// A command, and when it comes: before, at and after the end of the reservation, and in no order, as
    /// by clocks that are set back.
    fn command() -> impl Strategy<Value = (Transition, OffsetDateTime)> {
        let payment = |reference| Transition::Pay(Payment { amount: price(), reference });
        let command = prop_oneof![
            "[ab]".prop_map(payment),
            Just(Transition::Cancel),
            Just(Transition::Expire),
        ];
        (command, (-1_i64..=20).prop_map(|second| START + second.seconds()))
    }

    proptest! {
        #[test]
        fn whatever_comes_an_order_changes_once_in_time_and_for_good(
            commands in vec(command(), 0..10)
        ) {
            let mut order = reserve(Uuid::now_v7(), "anna", price(), START, TIME);
            for (command, now) in commands {
                let Ok(Some(next)) = decide(&order, command.clone(), now) else { continue };
                prop_assert_eq!(order.status, OrderStatus::Reserved, "final states are final");
                prop_assert_ne!(next.status, OrderStatus::Reserved);
                prop_assert_eq!(next.version, order.version + 1);
                prop_assert!(next.updated_at >= order.updated_at);
                prop_assert_eq!(next.status == OrderStatus::Expired, now >= order.expires_at);
                let paid_with = match command {
                    Transition::Pay(payment) => Some(payment),
                    Transition::Cancel | Transition::Expire => None,
                };
                prop_assert_eq!(next.status == OrderStatus::Completed, paid_with.is_some());
                // All else is as it was.
                let Order { status, version, updated_at, .. } = next;
                let expected = Order { status, version, updated_at, payment: paid_with, ..order };
                prop_assert_eq!(&next, &expected);
                order = next;
            }
            prop_assert!(order.version <= 2);
        }

        #[test]
        fn a_command_changes_nothing_exactly_when_it_has_come_true_before(
            commands in vec(command(), 1..10)
        ) {
            let mut order = reserve(Uuid::now_v7(), "anna", price(), START, TIME);
            for (command, now) in commands {
                let wanted = match command {
                    Transition::Pay(_) => OrderStatus::Completed,
                    Transition::Cancel => OrderStatus::Cancelled,
                    Transition::Expire => OrderStatus::Expired,
                };
                let decided = decide(&order, command, now);
                prop_assert_eq!(decided == Ok(None), order.status == wanted);
                if let Ok(Some(next)) = decided {
                    prop_assert_eq!(next.status, wanted);
                    order = next;
                }
            }
        }

        #[test]
        fn the_reason_of_a_refusal_is_what_has_become_of_the_order(
            commands in vec(command(), 1..10)
        ) {
            let mut order = reserve(Uuid::now_v7(), "anna", price(), START, TIME);
            for (command, now) in commands {
                match decide(&order, command, now) {
                    Ok(next) => order = next.unwrap_or(order),
                    Err(refused) => prop_assert_eq!(refused, match order.status {
                        OrderStatus::Completed => Refused::Completed,
                        OrderStatus::Cancelled => Refused::Cancelled,
                        OrderStatus::Reserved if now < order.expires_at => Refused::NotDue,
                        OrderStatus::Reserved | OrderStatus::Expired => Refused::Expired,
                    }),
                }
            }
        }
    }
}
