//! The orders service's events: `order:created`, then one of `order:completed`, `order:cancelled`
//! and `order:expired`, each with the order's full state and version.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{checked, family, money::Price};

family! {
    /// The stream of order events.
    stream ORDERS = "ORDERS", from "/orders", schema 1;
    /// Every event of an order.
    events OrderEvent of Order;

    /// A ticket was reserved by an order.
    Created(OrderCreated) = "order:created" { "reserved": "order-reserved.json", }
    /// An order was paid.
    Completed(OrderCompleted) = "order:completed" { "completed": "order-completed.json", }
    /// An order was cancelled by its buyer.
    Cancelled(OrderCancelled) = "order:cancelled" { "cancelled": "order-cancelled.json", }
    /// An order was not paid in time.
    Expired(OrderExpired) = "order:expired" { "expired": "order-expired.json", }
}

columns! {
    /// An order as its service last committed it.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema, sqlx::FromRow)]
    #[serde(rename_all = "camelCase")]
    pub struct Order {
        /// The order's id, the same in every service.
        pub id: Uuid,
        /// The ticket that it is for.
        pub ticket_id: Uuid,
        /// The buyer: the subject of the token that the request came with.
        #[serde(deserialize_with = "checked::buyer")]
        #[schema(min_length = 1, max_length = 200)]
        pub buyer: String,
        /// The ticket's price when it was reserved, which is the amount to pay.
        pub price: Price,
        /// The order's state.
        pub status: OrderStatus,
        /// 1 when created, and one more with each change: the greater version is the newer state.
        #[serde(deserialize_with = "checked::version")]
        #[schema(minimum = 1)]
        pub version: i32,
        /// When the reservation ends.
        #[serde(with = "bus::rfc3339")]
        pub expires_at: OffsetDateTime,
        /// When it was created.
        #[serde(with = "bus::rfc3339")]
        pub created_at: OffsetDateTime,
        /// When this version was committed.
        #[serde(with = "bus::rfc3339")]
        pub updated_at: OffsetDateTime,
    } and {
        /// The payment that completed the order; absent otherwise.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false)]
        #[sqlx(json(nullable))]
        pub payment: Option<Payment>,
    }
}

/// An order's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum OrderStatus {
    /// Its ticket is reserved until it is paid or its time has passed.
    Reserved,
    /// It is paid, and its ticket sold.
    Completed,
    /// Its buyer cancelled it.
    Cancelled,
    /// It was not paid in time.
    Expired,
}

impl OrderStatus {
    /// Returns the status as written in JSON and in databases.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }
}

/// The payment for an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Payment {
    /// The amount.
    pub amount: Price,
    /// The payment's reference at its provider.
    #[serde(deserialize_with = "checked::reference")]
    #[schema(min_length = 1)]
    pub reference: String,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::events::EventSet;

    #[test]
    fn an_event_is_checked_like_a_request_and_the_error_names_the_field() {
        let golden: Value =
            serde_json::from_str(include_str!("golden/order-completed.json")).unwrap();
        for (field, value, reason) in [
            ("/buyer", json!(""), "buyer: must not be empty"),
            ("/buyer", json!("x".repeat(201)), "buyer: must have at most 200 characters"),
            ("/buyer", json!("a\u{1b}b"), "buyer: must not hold control characters"),
            ("/price", json!(-1), "price: must not be negative"),
            ("/payment/amount", json!(0.001), "payment.amount: must have at most two decimals"),
            ("/payment/reference", json!(""), "payment.reference: must not be empty"),
            ("/version", json!(0), "version: must be at least 1"),
            ("/expiresAt", json!("0000-06-01T00:00:00Z"), "expiresAt: must be in the years"),
            ("/createdAt", json!("0000-06-01T00:00:00Z"), "createdAt: must be in the years"),
            ("/updatedAt", json!("0000-06-01T00:00:00Z"), "updatedAt: must be in the years"),
            ("/status", json!("gone"), "unknown variant"),
            ("/ticketId", json!("x"), "ticketId: "),
        ] {
            let mut order = golden.clone();
            *order.pointer_mut(field).unwrap() = value;
            let read = OrderCompleted::decode("order:completed", 1, &order.to_string());
            let error = read.unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
