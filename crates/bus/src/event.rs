//! The properties of an event that the bus needs: its subject, the stream that stores it, and the version of its
//! schema. A service implements [`Event`] for its own types.

use serde::{Serialize, de::DeserializeOwned};

/// A JetStream stream, which carries a family of events.
///
/// List each subject: to NATS, `parcel:sent` is a single token, so `parcel:*` matches nothing but
/// itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    /// The stream's name on the server.
    pub name: &'static str,
    /// Every subject that the stream stores.
    pub subjects: &'static [&'static str],
    /// The beginning of the CloudEvents `dataschema` of its events, such as `urn:example:event:`. The
    /// subject, a colon and the schema's version follow. Never change it: stored events have it.
    pub schema_prefix: &'static str,
}

impl Stream {
    /// The `dataschema` of an event's payload.
    #[must_use]
    pub fn data_schema(&self, subject: &str, version: u32) -> String {
        format!("{}{subject}:{version}", self.schema_prefix)
    }
}

/// Something that happened, published to every service that listens.
///
/// An event carries the full state of its entity and the version of that state. So no listener has to
/// wait for an earlier event, and order does not matter.
pub trait Event: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The NATS subject, which is also the CloudEvents `type`.
    const SUBJECT: &'static str;
    /// The stream that stores the subject.
    const STREAM: &'static Stream;
    /// The version of the payload's schema. A listener refuses a version that it does not know. Raise it
    /// only for a change that old listeners would misread.
    const SCHEMA_VERSION: u32;
    /// The publisher: the CloudEvents `source`, a URI reference such as `/parcels`.
    const SOURCE: &'static str;

    /// The id of the event's entity, such as a parcel's number: the CloudEvents `subject`.
    fn entity_id(&self) -> String;
}

/// The events that one listener takes: a single [`Event`], or several of one stream.
///
/// Every `Event` is a set of one. For more, declare an enum with [`event_set!`](crate::event_set).
pub trait EventSet: Sized + Send + Sync + 'static {
    /// The stream that stores them.
    const STREAM: &'static Stream;
    /// The subjects to consume.
    const SUBJECTS: &'static [&'static str];
    /// The source of each subject, in the same order: see [`Event::SOURCE`].
    const SOURCES: &'static [&'static str];

    /// Parses the payload of one event.
    ///
    /// # Errors
    /// When the subject is not in this set, the schema version is unknown, or the payload does not parse.
    /// Such an event becomes a dead letter. If a newer release may be able to read it, it is first
    /// redelivered for some minutes.
    fn decode(subject: &str, schema_version: u32, data: &str) -> Result<Self, DecodeError>;
}

/// Why a payload is no event of the set.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The subject belongs to no event of the set.
    #[error("no event of this listener has the type {0:?}")]
    UnknownSubject(String),
    /// The payload has a newer schema, or one that never existed.
    #[error("{subject} has schema version {found}, this listener knows {known}")]
    UnknownVersion {
        /// The event's subject.
        subject: &'static str,
        /// The version that arrived.
        found: u32,
        /// The version that this build knows.
        known: u32,
    },
    /// The payload does not match its schema.
    #[error("{subject}: {error}")]
    Payload {
        /// The event's subject.
        subject: &'static str,
        /// Which field, and why.
        error: serde_path_to_error::Error<serde_json::Error>,
    },
}

impl DecodeError {
    /// Whether a newer release may be able to read it: during a rollout, members of two releases share a
    /// group.
    #[must_use]
    pub fn is_of_a_newer_release(&self) -> bool {
        match self {
            Self::UnknownSubject(_) => true,
            Self::UnknownVersion { found, known, .. } => found > known,
            Self::Payload { .. } => false,
        }
    }
}

impl<E: Event> EventSet for E {
    const STREAM: &'static Stream = E::STREAM;
    const SUBJECTS: &'static [&'static str] = &[E::SUBJECT];
    const SOURCES: &'static [&'static str] = &[E::SOURCE];

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

/// Declares an enum of several events of one stream and implements [`EventSet`] for it.
///
/// ```
/// use bus::{Event, EventSet, Stream};
/// use serde::{Deserialize, Serialize};
///
/// const PARCELS: Stream = Stream {
///     name: "PARCELS",
///     subjects: &["parcel:sent", "parcel:lost"],
///     schema_prefix: "urn:example:event:",
/// };
///
/// #[derive(Debug, Clone, Serialize, Deserialize)]
/// struct ParcelSent(u64);
/// #[derive(Debug, Clone, Serialize, Deserialize)]
/// struct ParcelLost(u64);
///
/// impl Event for ParcelSent {
///     const SUBJECT: &'static str = "parcel:sent";
///     const STREAM: &'static Stream = &PARCELS;
///     const SCHEMA_VERSION: u32 = 1;
///     const SOURCE: &'static str = "/parcels";
///     fn entity_id(&self) -> String { self.0.to_string() }
/// }
/// impl Event for ParcelLost {
///     const SUBJECT: &'static str = "parcel:lost";
///     const STREAM: &'static Stream = &PARCELS;
///     const SCHEMA_VERSION: u32 = 1;
///     const SOURCE: &'static str = "/parcels";
///     fn entity_id(&self) -> String { self.0.to_string() }
/// }
///
/// bus::event_set! {
///     /// The events that a listener takes.
///     enum ParcelEvent in PARCELS {
///         /// It is on its way.
///         Sent(ParcelSent),
///         /// It will not arrive.
///         Lost(ParcelLost),
///     }
/// }
/// assert_eq!(ParcelEvent::SUBJECTS, ["parcel:sent", "parcel:lost"]);
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

        impl $crate::EventSet for $name {
            const STREAM: &'static $crate::Stream = &$stream;
            const SUBJECTS: &'static [&'static str] =
                &[$( <$event as $crate::Event>::SUBJECT ),+];
            const SOURCES: &'static [&'static str] =
                &[$( <$event as $crate::Event>::SOURCE ),+];

            fn decode(
                subject: &str,
                schema_version: u32,
                data: &str,
            ) -> Result<Self, $crate::DecodeError> {
                $(
                    if subject == <$event as $crate::Event>::SUBJECT {
                        return <$event as $crate::EventSet>::decode(
                            subject, schema_version, data,
                        ).map(Self::$variant);
                    }
                )+
                Err($crate::DecodeError::UnknownSubject(subject.to_owned()))
            }
        }
    };
}
