//! Times in events: RFC 3339 in the years 1 to 9999, which every service can store and print. For fields with
//! `#[serde(with = "bus::rfc3339")]`.

use serde::{Deserializer, Serializer, de::Error};
use time::{OffsetDateTime, UtcOffset, serde::rfc3339};

/// Writes a time.
///
/// # Errors
/// When the serializer fails, or RFC 3339 cannot express the time.
pub fn serialize<S: Serializer>(at: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    rfc3339::serialize(at, serializer)
}

/// Reads a time, converted to UTC.
///
/// # Errors
/// When it is not RFC 3339, or its year in UTC is not from 1 to 9999: RFC 3339 allows the year 0000, which Postgres
/// prints as 1 BC and others not at all.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<OffsetDateTime, D::Error> {
    let given = rfc3339::deserialize(deserializer)?;
    given
        .checked_to_offset(UtcOffset::UTC)
        .filter(|at| (1..=9999).contains(&at.year()))
        .ok_or_else(|| D::Error::custom("must be in the years 1 to 9999, in UTC"))
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Debug, Serialize, Deserialize)]
    struct At(#[serde(with = "super")] OffsetDateTime);

    #[test]
    fn a_time_is_read_and_written_in_utc() {
        for (given, kept) in [
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
            ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
            ("2026-01-31T12:00:00+02:00", "2026-01-31T10:00:00Z"),
            ("0000-12-31T23:00:00-02:00", "0001-01-01T01:00:00Z"),
        ] {
            let at: At = serde_json::from_str(&format!("{given:?}")).unwrap();
            assert_eq!(serde_json::to_string(&at).unwrap(), format!("{kept:?}"));
        }
    }

    #[test]
    fn a_year_outside_1_to_9999_is_refused() {
        for given in [
            "0000-01-01T00:00:00Z",
            "0000-12-31T23:59:59.999999999Z",
            "0001-01-01T00:00:00+01:00",
            "9999-12-31T23:59:59-00:01",
            "-0001-01-01T00:00:00Z",
            "10000-01-01T00:00:00Z",
        ] {
            assert!(serde_json::from_str::<At>(&format!("{given:?}")).is_err(), "{given}");
        }
    }
}
