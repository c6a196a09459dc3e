//! The tickets service's events: `ticket:created` and `ticket:updated`, each with the ticket's full
//! state and version.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{checked, family, money::Price, names::EitherName};

family! {
    /// The stream of ticket events.
    stream TICKETS = "TICKETS", from "/tickets", schema 1;
    /// Every event of a ticket.
    events TicketEvent of Ticket, written by Ticket::write_with_both_names;

    /// A ticket was created.
    Created(TicketCreated) = "ticket:created" {
        "new": "ticket.json",
        "new, with its seller": "ticket-of-seller.json",
        "new, before 0.1.0": "before-0.1.0/ticket.json",
        "new, with its seller, before 0.1.0": "before-0.1.0/ticket-of-seller.json",
    }
    /// A ticket was changed, reserved, sold or released.
    Updated(TicketUpdated) = "ticket:updated" {
        "free": "ticket.json",
        "reserved": "ticket-reserved.json",
        "sold": "ticket-sold.json",
        "reserved, with its seller": "ticket-of-seller-reserved.json",
        "free, before 0.1.0": "before-0.1.0/ticket.json",
        "reserved, before 0.1.0": "before-0.1.0/ticket-reserved.json",
        "sold, before 0.1.0": "before-0.1.0/ticket-sold.json",
        "reserved, with its seller, before 0.1.0": "before-0.1.0/ticket-of-seller-reserved.json",
    }
}

columns! {
    /// A ticket as its service last committed it.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema, sqlx::FromRow)]
    #[serde(remote = "Self", rename_all = "camelCase")]
    pub struct Ticket {
        /// The ticket's id, the same in every service.
        pub id: Uuid,
        /// Its title, 1–200 characters.
        #[serde(deserialize_with = "checked::title")]
        #[schema(min_length = 1, max_length = 200)]
        pub title: String,
        /// Its price.
        pub price: Price,
        /// 1 when created, and one more with each change: the greater version is the newer state.
        #[serde(deserialize_with = "checked::version")]
        #[schema(minimum = 1)]
        pub version: i32,
        /// When it was created.
        #[serde(with = "bus::rfc3339")]
        pub created_at: OffsetDateTime,
        /// When this version was committed.
        #[serde(with = "bus::rfc3339")]
        pub updated_at: OffsetDateTime,
        /// The seller, by the name in their token; absent if the ticket was stored by a release
        /// without sellers.
        #[serde(
            default,
            deserialize_with = "checked::seller",
            skip_serializing_if = "Option::is_none"
        )]
        #[schema(nullable = false, min_length = 1, max_length = 200)]
        pub seller: Option<String>,
    } and {
        /// The order that holds it; absent while the ticket is available.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false)]
        #[sqlx(json(nullable))]
        pub hold: Option<Hold>,
    }
}

impl Ticket {
    /// Returns the ticket of the examples, with a new id. Tests change what they need:
    /// `Ticket { version: 2, ..Ticket::example() }`.
    #[must_use]
    pub fn example() -> Self {
        let example = serde_json::from_str(include_str!("golden/ticket-of-seller.json"));
        Self { id: Uuid::now_v7(), ..example.unwrap_or_else(|error| panic!("{error}")) }
    }
}

/// An order's hold on a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(remote = "Self", rename_all = "camelCase")]
pub struct Hold {
    /// The order that holds the ticket.
    pub order_id: Uuid,
    /// Whether the ticket is reserved or sold.
    pub status: HoldStatus,
}

/// Reads a field under either name; writes the current one.
macro_rules! with_either_name {
    ($($type:ty),+) => {
        $(
            impl<'de> Deserialize<'de> for $type {
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    Self::deserialize(EitherName(deserializer))
                }
            }

            impl Serialize for $type {
                fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    Self::serialize(self, serializer)
                }
            }
        )+
    };
}
with_either_name!(Ticket, Hold);

impl Ticket {
    /// With the old names next to the current ones: listeners of releases before 0.1.0 know only
    /// the old ones.
    fn write_with_both_names<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct BothNames {
            #[serde(flatten)]
            ticket: Ticket,
            #[serde(skip_serializing_if = "Option::is_none")]
            hold: Option<HoldBothNames>,
            #[serde(with = "bus::rfc3339")]
            created_at: OffsetDateTime,
            #[serde(with = "bus::rfc3339")]
            updated_at: OffsetDateTime,
        }
        #[derive(Serialize)]
        struct HoldBothNames {
            #[serde(flatten)]
            hold: Hold,
            order_id: Uuid,
        }
        let hold = self.hold.map(|hold| HoldBothNames { hold, order_id: hold.order_id });
        let (created_at, updated_at) = (self.created_at, self.updated_at);
        let ticket = Ticket { hold: None, ..self.clone() };
        BothNames { ticket, hold, created_at, updated_at }.serialize(serializer)
    }
}

/// How an order holds a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum HoldStatus {
    /// Until it is paid, cancelled or expires.
    Reserved,
    /// Permanently: it is paid.
    Sold,
}

impl HoldStatus {
    /// Returns the status as written in JSON and in databases.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Sold => "sold",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::EventSet;

    const GOLDEN: &str = include_str!("golden/ticket-of-seller.json");

    #[test]
    fn a_field_added_by_a_newer_publisher_is_ignored() {
        let newer = GOLDEN.replacen('{', r#"{"seat":"12A","#, 1);
        assert!(TicketUpdated::decode("ticket:updated", 1, &newer).is_ok());
    }

    #[test]
    fn an_event_is_checked_like_a_request_and_the_error_names_the_field() {
        let read = |field: &str, value: &str| {
            let at = GOLDEN.find(&format!(r#""{field}":"#)).unwrap() + field.len() + 3;
            let end = at + GOLDEN[at..].find([',', '}']).unwrap();
            let text = format!("{}{value}{}", &GOLDEN[..at], &GOLDEN[end..]);
            TicketUpdated::decode("ticket:updated", 1, &text)
        };
        for (field, value, reason) in [
            ("title", r#""""#, "must not be empty"),
            ("title", r#"" \t ""#, "must not be empty"),
            ("title", &format!("\"{}\"", "x".repeat(201)), "at most 200 characters, has 201"),
            ("title", r#""a\u0000b""#, "holds U+0000"),
            ("title", r#""a\u001b[2Jb""#, "holds U+001B"),
            ("title", r#""a\nb""#, "holds U+000A"),
            ("title", "7", "invalid type"),
            ("seller", r#""""#, "must not be empty"),
            ("seller", r#""a\u0000b""#, "holds U+0000"),
            ("seller", &format!("\"{}\"", "x".repeat(201)), "at most 200 characters, has 201"),
            ("price", "-1", "must not be negative"),
            ("price", "1.005", "must have at most two decimals"),
            ("price", "1000000.01", "must be at most 1000000.00"),
            ("version", "0", "must be at least 1"),
            ("version", "-1", "must be at least 1"),
            ("version", "2147483648", "invalid value"),
            ("createdAt", r#""0000-01-01T00:00:00Z""#, "must be in the years 1 to 9999"),
            ("updatedAt", r#""0001-01-01T00:00:00+00:01""#, "must be in the years 1 to 9999"),
            ("updatedAt", r#""9999-12-31T23:59:59-00:01""#, "must be in the years 1 to 9999"),
            ("id", r#""x""#, "UUID"),
        ] {
            let error = read(field, value).unwrap_err().to_string();
            let named = format!("ticket:updated: {field}: ");
            assert!(error.starts_with(&named) && error.contains(reason), "{value}: {error}");
        }
        // A title that any release has accepted takes effect, even if later releases refuse it.
        for title in ["\u{200b}", "a\u{202e}b", "\u{2066}a\u{2069}", &"é".repeat(200)] {
            let read = read("title", &serde_json::to_string(title).unwrap()).unwrap();
            assert_eq!(read.0.title, title);
        }
        assert!(read("createdAt", r#""9999-12-31T23:59:59.999999999Z""#).is_ok());
    }

    #[test]
    fn an_unknown_schema_version_and_a_foreign_subject_are_refused_and_named() {
        let error = TicketCreated::decode("ticket:created", 2, GOLDEN).unwrap_err().to_string();
        assert_eq!(error, "ticket:created has schema version 2, this listener knows 1");
        let error = TicketCreated::decode("order:created", 1, GOLDEN).unwrap_err().to_string();
        assert!(error.contains("order:created"), "{error}");
    }

    /// The types with which the previous release reads a ticket, verbatim.
    mod before {
        use super::*;

        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        pub(super) struct Ticket {
            pub(super) id: Uuid,
            #[serde(deserialize_with = "checked::title")]
            pub(super) title: String,
            pub(super) price: Price,
            #[serde(deserialize_with = "checked::version")]
            pub(super) version: i32,
            #[serde(with = "bus::rfc3339")]
            pub(super) created_at: OffsetDateTime,
            #[serde(with = "bus::rfc3339")]
            pub(super) updated_at: OffsetDateTime,
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub(super) seller: Option<String>,
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub(super) hold: Option<Hold>,
        }

        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub(super) struct Hold {
            pub(super) order_id: Uuid,
            pub(super) status: HoldStatus,
        }
    }

    #[test]
    fn this_and_the_previous_release_read_each_others_events() {
        let hold = Hold { order_id: Uuid::now_v7(), status: HoldStatus::Reserved };
        for hold in [None, Some(hold)] {
            let ticket = Ticket { hold, ..Ticket::example() };
            let told = serde_json::to_string(&TicketUpdated(ticket.clone())).unwrap();
            let before: before::Ticket = serde_json::from_str(&told).unwrap();
            // A field that is added later is not in the previous release.
            let Ticket { id, title, price, version, created_at, updated_at, seller, hold, .. } =
                ticket.clone();
            let hold = hold.map(|Hold { order_id, status }| before::Hold { order_id, status });
            let expected =
                before::Ticket { id, title, price, version, created_at, updated_at, seller, hold };
            assert_eq!(before, expected);
            let told = serde_json::to_string(&before).unwrap();
            assert!(told.contains("created_at") && !told.contains("createdAt"), "{told}");
            let read = TicketUpdated::decode("ticket:updated", 1, &told).unwrap();
            assert_eq!(read.0, ticket);
        }
    }

    #[test]
    fn http_answers_have_only_the_current_names() {
        let hold = Hold { order_id: Uuid::now_v7(), status: HoldStatus::Sold };
        let answer = serde_json::to_string(&Ticket { hold: Some(hold), ..Ticket::example() });
        let answer = answer.unwrap();
        assert!(answer.contains("createdAt") && answer.contains("orderId"), "{answer}");
        assert!(!answer.contains('_'), "{answer}");
    }

    #[test]
    fn a_field_given_twice_under_one_name_is_refused() {
        let twice = GOLDEN.replacen('{', r#"{"createdAt":"2026-01-01T00:00:00Z","#, 1);
        let error = TicketUpdated::decode("ticket:updated", 1, &twice).unwrap_err().to_string();
        assert!(error.contains("duplicate field"), "{error}");
    }
}
