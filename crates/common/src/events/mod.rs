//! The contract between services: the events, their streams, and their data. A service with events
//! of its own declares them in its own crate with [`family!`]; nothing here needs to change.

pub mod as_received;
pub mod asyncapi;
pub(crate) mod checked;
mod documented;
pub mod money;
mod names;
pub mod order;
pub mod ticket;
pub mod title;

pub use bus::{DecodeError, Event, EventSet, Stream};

/// The prefix of every event's `dataschema`. Never change it: stored events contain it.
pub const SCHEMA_PREFIX: &str = "urn:ticketing:event:";

/// Declares a family of events: its stream, a type per event, an enum of all of them for listeners,
/// and their documentation with examples. Each event carries the full state of one thing, which has
/// an `id`.
///
/// An example is a file in the folder `golden` beside the source, that holds a payload published by some release. Never
/// change or remove one: events in a stream must stay readable. A folder inside `golden`, such as `before-0.1.0`, holds
/// payloads that this release would write differently, as the file of the same name in `golden`. A test asserts that
/// [`faults`](crate::events::asyncapi::faults) finds none.
///
/// The state is written as it serializes, or by the function after `written by`.
#[macro_export]
macro_rules! family {
    (@write $state:ident, $serializer:ident) => { ::serde::Serialize::serialize($state, $serializer) };
    (@write $state:ident, $serializer:ident, $write:path) => { $write($state, $serializer) };
    (
        $(#[doc = $stream_doc:literal])+
        stream $stream:ident = $name:literal, from $source:literal, schema $version:literal;
        $(#[doc = $set_doc:literal])+
        events $set:ident of $state:ty $(, written by $write:path)?;
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

        /// The documentation of this family's events.
        pub const DOCUMENTED: &[$crate::events::asyncapi::Documented] = &[$(
            $crate::events::asyncapi::Documented::of::<$event, $state>(
                concat!($($doc),+),
                &[$( ($example, $file, include_str!(concat!("golden/", $file))) ),+],
            )
        ),+];

        $(
            $(#[doc = $doc])+
            #[derive(Debug, Clone, PartialEq, Eq, ::serde::Deserialize)]
            #[serde(transparent)]
            pub struct $event(pub $state);

            impl ::serde::Serialize for $event {
                fn serialize<S: ::serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                    $set::write(&self.0, to)
                }
            }

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

        $crate::event_set! {
            $(#[doc = $set_doc])+
            pub enum $set in $stream {
                $( $(#[doc = $doc])+ $variant($event), )+
            }
        }

        impl $set {
            fn write<S: ::serde::Serializer>(state: &$state, to: S) -> Result<S::Ok, S::Error> {
                $crate::family!(@write state, to $(, $write)?)
            }

            /// Returns the state that the event carries. The kind of event rarely matters: events
            /// arrive in any order, and only the version says which state is newer.
            #[must_use]
            pub fn state(&self) -> &$state {
                match self {
                    $( Self::$variant($event(state)) )|+ => state,
                }
            }
        }
    };
}
#[doc(inline)]
pub use crate::family;
