//! The contract between services: which events exist, in which stream they travel, and what they
//! say. A service that wants events of its own implements [`Event`] for them in its own crate;
//! nothing here needs to change.

pub mod asyncapi;
pub mod money;
pub mod order;
pub mod ticket;

use serde::{Serialize, de::DeserializeOwned};

/// A JetStream stream: the road that a family of events travels.
///
/// Subjects are listed one by one: `ticket:created` is a single token for NATS, so `ticket:*`
/// would match only itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    /// The stream's name on the server.
    pub name: &'static str,
    /// Every subject that the stream stores.
    pub subjects: &'static [&'static str],
}

/// Something that happened, told to every service that wants to know.
///
/// An event carries the full state of what it is about and that state's version, so that no
/// listener waits for a predecessor and order does not matter.
pub trait Event: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The NATS subject, which is also the CloudEvents `type`.
    const SUBJECT: &'static str;
    /// The stream that stores the subject.
    const STREAM: &'static Stream;
    /// The version of the payload's schema. A listener refuses a version that it does not know;
    /// raise it only for a change that old listeners would misread.
    const SCHEMA_VERSION: u32;
    /// Who publishes it: the CloudEvents `source`, a URI reference such as `/tickets`.
    const SOURCE: &'static str;

    /// What the event is about: the CloudEvents `subject`, such as a ticket's id.
    fn about(&self) -> String;
}

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

                fn about(&self) -> String {
                    self.0.id.to_string()
                }
            }
        )+
    };
}
use events_of;

/// The events that one listener takes: a single [`Event`], or an enum over several of one stream.
///
/// Every `Event` is a set of one. For more, write an enum and use [`event_set!`](crate::event_set).
pub trait EventSet: Sized + Send + Sync + 'static {
    /// The stream that holds them all.
    const STREAM: &'static Stream;
    /// The subjects to consume.
    const SUBJECTS: &'static [&'static str];

    /// Reads one event's payload.
    ///
    /// # Errors
    /// When the subject is not of this set, the schema version is unknown, or the payload does not
    /// parse. Such an event can never succeed, so it becomes a dead letter.
    fn decode(subject: &str, schema_version: u32, data: &str) -> Result<Self, DecodeError>;
}

/// Why a payload is not an event of the set.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The subject belongs to no event of the set.
    #[error("no event of this listener has the type {0:?}")]
    UnknownSubject(String),
    /// The publisher speaks a newer (or a never published) schema.
    #[error("{subject} has schema version {found}, this listener knows {known}")]
    UnknownVersion {
        /// The event's subject.
        subject: &'static str,
        /// The version that arrived.
        found: u32,
        /// The version that this build knows.
        known: u32,
    },
    /// The payload is not what the type says.
    #[error("{subject}: {error}")]
    Payload {
        /// The event's subject.
        subject: &'static str,
        /// Which field, and why.
        error: serde_path_to_error::Error<serde_json::Error>,
    },
}

impl<E: Event> EventSet for E {
    const STREAM: &'static Stream = E::STREAM;
    const SUBJECTS: &'static [&'static str] = &[E::SUBJECT];

    fn decode(subject: &str, schema_version: u32, data: &str) -> Result<Self, DecodeError> {
        if subject != E::SUBJECT {
            return Err(DecodeError::UnknownSubject(subject.to_owned()));
        }
        if schema_version != E::SCHEMA_VERSION {
            return Err(DecodeError::UnknownVersion {
                subject: E::SUBJECT,
                found: schema_version,
                known: E::SCHEMA_VERSION,
            });
        }
        serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(data))
            .map_err(|error| DecodeError::Payload { subject: E::SUBJECT, error })
    }
}

/// Declares an enum over several events of one stream and implements [`EventSet`] for it.
///
/// ```
/// use common::events::{EventSet, ticket::{TICKETS, TicketCreated, TicketUpdated}};
///
/// common::event_set! {
///     /// What a listener of tickets wants.
///     pub enum TicketEvent in TICKETS {
///         /// A ticket is new.
///         Created(TicketCreated),
///         /// A ticket has changed.
///         Updated(TicketUpdated),
///     }
/// }
/// assert_eq!(TicketEvent::SUBJECTS, ["ticket:created", "ticket:updated"]);
/// ```
#[macro_export]
macro_rules! event_set {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident in $stream:path {
            $( $(#[$variant_meta:meta])* $variant:ident($event:ty) ),+ $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone)]
        $vis enum $name { $( $(#[$variant_meta])* $variant($event) ),+ }

        impl $crate::events::EventSet for $name {
            const STREAM: &'static $crate::events::Stream = &$stream;
            const SUBJECTS: &'static [&'static str] =
                &[$( <$event as $crate::events::Event>::SUBJECT ),+];

            fn decode(
                subject: &str,
                schema_version: u32,
                data: &str,
            ) -> Result<Self, $crate::events::DecodeError> {
                $(
                    if subject == <$event as $crate::events::Event>::SUBJECT {
                        return <$event as $crate::events::EventSet>::decode(
                            subject, schema_version, data,
                        ).map(Self::$variant);
                    }
                )+
                Err($crate::events::DecodeError::UnknownSubject(subject.to_owned()))
            }
        }
    };
}
