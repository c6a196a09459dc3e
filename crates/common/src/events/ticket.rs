//! What the tickets service tells of its tickets: `ticket:created` and `ticket:updated`, each with
//! the ticket's full state and version.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Event, Stream, events_of, money::Price};

/// The stream of ticket events.
pub const TICKETS: Stream =
    Stream { name: "TICKETS", subjects: &[TicketCreated::SUBJECT, TicketUpdated::SUBJECT] };

/// A ticket as its service last committed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Ticket {
    /// The ticket's id, the same in every service.
    pub id: Uuid,
    /// Its title, 1–200 characters.
    #[schema(min_length = 1, max_length = 200)]
    pub title: String,
    /// Its price.
    pub price: Price,
    /// 1 when created, one more with each change: the greater one is the newer state.
    #[schema(minimum = 1)]
    pub version: i32,
    /// When it was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When this version was committed.
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
    /// Who sells it, by the name that their token gave them; missing where a release without sellers has
    /// stored it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, min_length = 1, max_length = 200)]
    pub seller: Option<String>,
    /// Whose it is; missing while anybody may order it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub hold: Option<Hold>,
}

/// Whose a ticket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Hold {
    /// The order that has it.
    pub order_id: Uuid,
    /// For now, or for good.
    pub status: HoldStatus,
}

/// How an order has a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum HoldStatus {
    /// Until it is paid, cancelled or expires.
    Reserved,
    /// For good: it is paid.
    Sold,
}

impl HoldStatus {
    /// The status as it is in JSON and in databases.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Sold => "sold",
        }
    }
}

events_of! {
    Ticket, in TICKETS, from "/tickets", schema 1:
    /// A ticket was created.
    TicketCreated = "ticket:created";
    /// A ticket was changed, or is held by another order than before, or by none.
    TicketUpdated = "ticket:updated";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::EventSet;

    const GOLDEN: &str = include_str!("golden/ticket.json");

    #[test]
    fn a_field_added_by_a_newer_publisher_is_passed_over() {
        let newer = GOLDEN.replacen('{', r#"{"seat":"12A","#, 1);
        assert!(TicketUpdated::decode("ticket:updated", 1, &newer).is_ok());
    }

    #[test]
    fn an_unknown_schema_version_and_a_foreign_subject_are_refused_by_name() {
        let error = TicketCreated::decode("ticket:created", 2, GOLDEN).unwrap_err().to_string();
        assert_eq!(error, "ticket:created has schema version 2, this listener knows 1");
        let error = TicketCreated::decode("order:created", 1, GOLDEN).unwrap_err().to_string();
        assert!(error.contains("order:created"), "{error}");
    }
}
