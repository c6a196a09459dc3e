//! The states of an order:
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
//! The three states on the right are final. Only this module decides which one an order reaches,
//! for the transaction that holds the order's row lock. Others wait for that lock, then find the
//! decision made.

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

/// A requested change of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transition {
    /// Its buyer has paid for it.
    Pay(Payment),
    /// Its buyer cancels it.
    Cancel,
    /// Its time has passed.
    Expire,
}

/// Why a transition is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The order is paid.
    #[error("The order is completed: it was paid.")]
    Completed,
    /// The order was cancelled.
    #[error("The order was cancelled.")]
    Cancelled,
    /// Its time has passed, whether or not it has been marked as expired.
    #[error("The order has expired: it was not paid in time.")]
    Expired,
    /// Its time has not passed.
    #[error("The order's time has not passed yet.")]
    NotDue,
}

/// Creates an order that reserves a ticket for a time, starting now.
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

/// Applies a transition. Returns the order's next version, or `None` if the order is in the target
/// state already.
///
/// # Errors
/// If the order's state rules the transition out.
pub fn decide(
    order: &Order,
    transition: Transition,
    now: OffsetDateTime,
) -> Result<Option<Order>, Refused> {
    use OrderStatus::{Cancelled, Completed, Expired, Reserved};

    let due = now >= order.expires_at;
    let (status, payment) = match (order.status, transition) {
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
        // A database's clock may be set back; an order's time still never runs backwards.
        updated_at: now.max(order.updated_at),
        ..order.clone()
    }))
}

/// Returns the event for an order's newest version, as part of the current trace.
///
/// # Errors
/// If the order does not serialize.
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

    /// A transition and its time: before, at and after the end of the reservation, in any order,
    /// because clocks may be set back.
    fn transition() -> impl Strategy<Value = (Transition, OffsetDateTime)> {
        let payment = |reference| Transition::Pay(Payment { amount: price(), reference });
        let transition = prop_oneof![
            "[ab]".prop_map(payment),
            Just(Transition::Cancel),
            Just(Transition::Expire),
        ];
        (transition, (-1_i64..=20).prop_map(|second| START + second.seconds()))
    }

    proptest! {
        #[test]
        fn any_sequence_of_transitions_changes_an_order_at_most_once(
            transitions in vec(transition(), 0..10)
        ) {
            let mut order = reserve(Uuid::now_v7(), "anna", price(), START, TIME);
            for (transition, now) in transitions {
                let Ok(Some(next)) = decide(&order, transition.clone(), now) else { continue };
                prop_assert_eq!(order.status, OrderStatus::Reserved, "final states are final");
                prop_assert_ne!(next.status, OrderStatus::Reserved);
                prop_assert_eq!(next.version, order.version + 1);
                prop_assert!(next.updated_at >= order.updated_at);
                prop_assert_eq!(next.status == OrderStatus::Expired, now >= order.expires_at);
                let paid_with = match transition {
                    Transition::Pay(payment) => Some(payment),
                    Transition::Cancel | Transition::Expire => None,
                };
                prop_assert_eq!(next.status == OrderStatus::Completed, paid_with.is_some());
                // Everything else is unchanged.
                let Order { status, version, updated_at, .. } = next;
                let expected = Order { status, version, updated_at, payment: paid_with, ..order };
                prop_assert_eq!(&next, &expected);
                order = next;
            }
            prop_assert!(order.version <= 2);
        }

        #[test]
        fn a_transition_is_a_no_op_exactly_when_it_was_applied_before(
            transitions in vec(transition(), 1..10)
        ) {
            let mut order = reserve(Uuid::now_v7(), "anna", price(), START, TIME);
            for (transition, now) in transitions {
                let wanted = match transition {
                    Transition::Pay(_) => OrderStatus::Completed,
                    Transition::Cancel => OrderStatus::Cancelled,
                    Transition::Expire => OrderStatus::Expired,
                };
                let decided = decide(&order, transition, now);
                prop_assert_eq!(decided == Ok(None), order.status == wanted);
                if let Ok(Some(next)) = decided {
                    prop_assert_eq!(next.status, wanted);
                    order = next;
                }
            }
        }

        #[test]
        fn a_refusal_names_the_state_of_the_order(
            transitions in vec(transition(), 1..10)
        ) {
            let mut order = reserve(Uuid::now_v7(), "anna", price(), START, TIME);
            for (transition, now) in transitions {
                match decide(&order, transition, now) {
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
