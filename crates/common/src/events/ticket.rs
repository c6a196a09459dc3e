//! What the tickets service tells of its tickets: `ticket:created` and `ticket:updated`, each with
//! the ticket's full state and version.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Event, Stream, money::Price};

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
}

/// A ticket was created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TicketCreated(pub Ticket);

/// A ticket was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TicketUpdated(pub Ticket);

impl Event for TicketCreated {
    const SUBJECT: &'static str = "ticket:created";
    const STREAM: &'static Stream = &TICKETS;
    const SCHEMA_VERSION: u32 = 1;
    const SOURCE: &'static str = "/tickets";

    fn about(&self) -> String {
        self.0.id.to_string()
    }
}

impl Event for TicketUpdated {
    const SUBJECT: &'static str = "ticket:updated";
    const STREAM: &'static Stream = &TICKETS;
    const SCHEMA_VERSION: u32 = 1;
    const SOURCE: &'static str = "/tickets";

    fn about(&self) -> String {
        self.0.id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::EventSet;

    const GOLDEN: &str = include_str!("ticket.golden.json");

    #[test]
    fn the_payload_published_before_can_still_be_read_and_is_written_the_same() {
        let TicketCreated(ticket) = TicketCreated::decode("ticket:created", 1, GOLDEN).unwrap();
        assert_eq!(ticket.title, "Concert");
        assert_eq!(ticket.price.to_string(), "20.50");
        assert_eq!(serde_json::to_string(&ticket).unwrap(), GOLDEN.trim());
    }

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
