//! How an event is printed: as text for a person, or as one JSON object per line for a program.

use async_nats::jetstream::{self, message::Info};
use clap::Args;
use common::bus::{envelope::Envelope, shown};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// The output format.
#[derive(Debug, Clone, Args)]
pub(super) struct Format {
    /// Prints one JSON object per line: stream, sequence, subject, delivery, published, and the event.
    #[arg(long)]
    json: bool,

    /// Prints the whole CloudEvent, not only its data.
    #[arg(long)]
    envelope: bool,
}

/// One line of `--json`.
#[derive(Serialize)]
struct Line<'a> {
    stream: &'a str,
    sequence: u64,
    subject: &'a str,
    delivery: i64,
    published: String,
    event: Option<Box<RawValue>>,
}

impl Format {
    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// The line for one message.
    pub(super) fn line(&self, message: &jetstream::Message, info: &Info<'_>) -> String {
        if self.json {
            let line = Line {
                stream: info.stream,
                sequence: info.stream_sequence,
                subject: &message.subject,
                delivery: info.delivered,
                published: info.published.format(&Rfc3339).unwrap_or_default(),
                event: self.event(&message.payload),
            };
            return serde_json::to_string(&line).unwrap_or_default();
        }
        let age = OffsetDateTime::now_utc() - info.published;
        format!(
            "Received {} #{} (delivery {}, {:.3} s old): {}",
            shown(&message.subject),
            info.stream_sequence,
            info.delivered,
            age.as_seconds_f64().max(0.0),
            shown(&self.text(&message.payload)),
        )
    }

    /// The event, digit for digit; as a string if it is not JSON.
    fn event(&self, payload: &[u8]) -> Option<Box<RawValue>> {
        let text = self.text(payload);
        // JSON allows raw line breaks only between values.
        match serde_json::from_str(&text.replace(['\n', '\r'], " ")) {
            Ok(event) => Some(event),
            Err(_) => to_raw_value(&text).ok(),
        }
    }

    /// The event's data or envelope; the payload as text if it is not an event.
    fn text(&self, payload: &[u8]) -> String {
        let data = Envelope::parse(payload).map(|envelope| envelope.data.get().to_owned());
        match data {
            Ok(data) if !self.envelope => data,
            _ => String::from_utf8_lossy(payload).into_owned(),
        }
    }
}
