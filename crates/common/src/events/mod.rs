//! The contract between services: which events exist, in which stream they travel, and what they
//! say. A service that wants events of its own implements [`Event`] for them in its own crate;
//! nothing here needs to change.

pub mod as_received;
pub mod asyncapi;
mod checked;
pub mod money;
mod names;
pub mod order;
pub mod ticket;
pub mod title;

use serde::{Serialize, Serializer};

pub use bus::{DecodeError, Event, EventSet, Stream};

/// What the `dataschema` of every event begins with. Never change it: stored events have it.
pub const SCHEMA_PREFIX: &str = "urn:ticketing:event:";

/// What the events of a family carry.
trait Published: Serialize {
    /// Writes it into an event.
    ///
    /// # Errors
    /// When the serializer does.
    fn published<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.serialize(serializer)
    }
}

/// Declares a family of events: its stream, a type for each event, the set of them all for
/// listeners, and their description with examples. Each event carries the full state of one thing,
/// which has an `id`.
///
/// An example is a file in `golden` that holds what some release has published. Never change or
/// remove one: what is in a stream stays readable. In `before-0.1.0` is what was written otherwise; this
/// release would write the file of the same name.
macro_rules! family {
    (
        $(#[doc = $stream_doc:literal])+
        stream $stream:ident = $name:literal, from $source:literal, schema $version:literal;
        $(#[doc = $set_doc:literal])+
        events $set:ident of $state:ty;
        $(
            $(#[doc = $doc:literal])+
            $variant:ident($event:ident) = $subject:literal { $( $example:literal: $file:literal, )+ }
        )+
    ) => {
        $(#[doc = $stream_doc])+
        pub const $stream: $crate::events::Stream =
            $crate::events::Stream {
                name: $name,
                subjects: &[$( $subject ),+],
                schema_prefix: $crate::events::SCHEMA_PREFIX,
            };

        /// The events of this family, described.
        pub(super) const DOCUMENTED: &[$crate::events::asyncapi::Documented] = &[$(
            $crate::events::asyncapi::Documented::of::<$event, $state>(
                concat!($($doc),+),
                &[$( ($example, $file, include_str!(concat!("golden/", $file))) ),+],
            )
        ),+];

        $(
            $(#[doc = $doc])+
            #[derive(Debug, Clone, PartialEq, Eq, ::serde::Serialize, ::serde::Deserialize)]
            #[serde(transparent)]
            pub struct $event(
                #[serde(serialize_with = "crate::events::Published::published")] pub $state,
            );

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

        ::bus::event_set! {
            $(#[doc = $set_doc])+
            pub enum $set in $stream {
                $( $(#[doc = $doc])+ $variant($event), )+
            }
        }

        impl $set {
            /// The state that the event carries. Which event it was rarely matters: events come in
            /// any order, and the version alone says which state is newer.
            #[must_use]
            pub fn state(&self) -> &$state {
                match self {
                    $( Self::$variant($event(state)) )|+ => state,
                }
            }
        }
    };
}
use family;
