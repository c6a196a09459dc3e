//! What the orders service tells of its orders: `order:created`, and then one of `order:completed`,
//! `order:cancelled` and `order:expired`, each with the order's full state and version.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Event, Stream, events_of, money::Price};

/// The stream of order events.
pub const ORDERS: Stream = Stream {
    name: "ORDERS",
    subjects: &[
        OrderCreated::SUBJECT,
        OrderCompleted::SUBJECT,
        OrderCancelled::SUBJECT,
        OrderExpired::SUBJECT,
    ],
};

/// An order as its service last committed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// The order's id, the same in every service.
    pub id: Uuid,
    /// The ticket that it is for.
    pub ticket_id: Uuid,
    /// Who ordered it, by the subject of the token that the request came with.
    #[schema(min_length = 1, max_length = 200)]
    pub buyer: String,
    /// What the ticket cost when it was reserved, and what is to be paid.
    pub price: Price,
    /// What has become of it.
    pub status: OrderStatus,
    /// 1 when created, one more with each change: the greater one is the newer state.
    #[schema(minimum = 1)]
    pub version: i32,
    /// Until when the ticket is reserved.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
    /// When it was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When this version was committed.
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
    /// What completed it; missing otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub payment: Option<Payment>,
}

/// What has become of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum OrderStatus {
    /// Its ticket is nobody else's until it is paid, or its time has passed.
    Reserved,
    /// It is paid, and its ticket sold.
    Completed,
    /// Its buyer gave the ticket back.
    Cancelled,
    /// It was not paid in time.
    Expired,
}

impl OrderStatus {
    /// The status as it is in JSON and in databases.
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

/// What was paid for an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Payment {
    /// How much.
    pub amount: Price,
    /// The payment's name at its provider.
    #[schema(min_length = 1, max_length = 200)]
    pub reference: String,
}

events_of! {
    Order, in ORDERS, from "/orders", schema 1:
    /// A ticket was reserved by an order.
    OrderCreated = "order:created";
    /// An order was paid.
    OrderCompleted = "order:completed";
    /// An order was given back by its buyer.
    OrderCancelled = "order:cancelled";
    /// An order was not paid in time.
    OrderExpired = "order:expired";
}
