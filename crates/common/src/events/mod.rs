//! The contract between services: which events exist, in which stream they travel, and what they
//! say. A service that wants events of its own implements [`Event`] for them in its own crate;
//! nothing here needs to change.

pub mod asyncapi;
mod checked;
pub mod money;
pub mod order;
pub mod ticket;
pub mod title;

pub use bus::{DecodeError, Event, EventSet, Stream};

/// What the `dataschema` of every event begins with. Never change it: stored events have it.
pub const SCHEMA_PREFIX: &str = "urn:ticketing:event:";

/// Declares events that each tell the full state of one thing, which has an `id`; and `DOCUMENTED`,
/// which describes them.
macro_rules! events_of {
    (
        $state:ty, in $stream:ident, from $source:literal, schema $version:literal:
        $( $(#[doc = $doc:literal])+ $event:ident = $subject:literal; )+
    ) => {
        /// The events of this family, described.
        pub(super) const DOCUMENTED: &[$crate::events::asyncapi::Documented] =
            &[$( $crate::events::asyncapi::Documented::of::<$event, $state>(concat!($($doc),+)) ),+];

        $(
            $(#[doc = $doc])+
            #[derive(Debug, Clone, PartialEq, Eq, ::serde::Serialize, ::serde::Deserialize)]
            #[serde(transparent)]
            pub struct $event(pub $state);

            impl $crate::events::Event for $event {
                const SUBJECT: &'static str = $subject;
                const STREAM: &'static $crate::events::Stream = &$stream;
                const SCHEMA_VERSION: u32 = $version;
                const SOURCE: &'static str = $source;

                fn entity_id(&self) -> String {
                    self.0.id.to_string()
                }
            }
        )+
    };
}
use events_of;
