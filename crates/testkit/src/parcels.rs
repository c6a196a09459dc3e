//! An event for tests of the bus, which knows nothing of tickets.

use bus::{Event, Stream};
use serde::{Deserialize, Serialize};

/// The stream of parcels.
pub const PARCELS: Stream =
    Stream { name: "PARCELS", subjects: &["parcel:sent"], schema_prefix: "urn:ticketing:event:" };

/// A parcel was sent. Its name is its only field.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ParcelSent(pub String);

impl ParcelSent {
    /// Returns a parcel whose name is a number.
    #[must_use]
    pub fn numbered(number: i64) -> Self {
        Self(number.to_string())
    }

    /// Returns the number that is its name.
    ///
    /// # Panics
    /// If its name is not a number.
    #[must_use]
    pub fn number(&self) -> i64 {
        self.0.parse().unwrap()
    }
}

impl Event for ParcelSent {
    const SUBJECT: &'static str = "parcel:sent";
    const STREAM: &'static Stream = &PARCELS;
    const SCHEMA_VERSION: u32 = 1;
    const SOURCE: &'static str = "/parcels";

    fn entity_id(&self) -> String {
        self.0.clone()
    }
}
