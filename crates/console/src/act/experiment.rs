//! An experiment, as it is shown.

use serde::Serialize;
use time::OffsetDateTime;

/// Something that was broken on purpose.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Experiment {
    /// When it began.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// What was done.
    pub what: String,
    /// The changes seen since, in order.
    pub seen: Vec<Observation>,
    /// The outcome; empty while the experiment is followed.
    pub outcome: String,
}

/// A change that the console saw.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Observation {
    /// Seconds since the experiment began.
    pub after: f64,
    /// The change, in words.
    pub text: String,
}
