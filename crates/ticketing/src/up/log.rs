//! Turns a service's log lines into short ones for people.

use common::bus::shown;
use serde_json::{Map, Value};

use super::link::Cut;

/// What a log line means to the view.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// About a single event; there are many.
    Event(String),
    /// The process accepts requests at this address.
    Listening(String),
    /// The process has joined this queue group.
    Joined(String),
    /// The process lost NATS or Postgres, or found it again.
    Outage(String),
    /// The console requests a cut of a link.
    Cut(Cut),
    /// Anything else worth showing.
    Line(String),
    /// For the log file only.
    Nothing,
}

/// Fields that add nothing to the process's name and the message.
const HIDDEN: [&str; 6] = ["timestamp", "level", "target", "message", "client.id", "notice"];

/// Interprets a line of a service's log.
pub(super) fn read(line: &str) -> Said {
    let Ok(Value::Object(fields)) = serde_json::from_str::<Value>(line) else {
        // Such as a panic message.
        return Said::Line(shown(line).into_owned());
    };
    let field = |name: &str| fields.get(name).map(plain).unwrap_or_default();
    match field("notice").as_str() {
        "ticket_created" => Said::Event(format!("created ticket {}", field("ticket.id"))),
        "ticket_updated" => Said::Event(format!(
            "updated ticket {} to version {}",
            field("ticket.id"),
            field("ticket.version")
        )),
        "order_created" => Said::Event(format!(
            "created order {}, which reserves ticket {}",
            field("order.id"),
            field("ticket.id")
        )),
        "order_changed" => {
            Said::Event(format!("{} order {}", field("order.status"), field("order.id")))
        }
        "order_expired" => Said::Event(format!("expired order {}", field("order.id"))),
        "event_handled" => Said::Event(format!(
            "processed {} #{} of {} {}{}",
            field("event.type"),
            field("event.sequence"),
            field("event.type").split(':').next().unwrap_or_default(),
            field("event.subject"),
            match field("event.delivery").as_str() {
                "1" => String::new(),
                delivery => format!(" (delivery {delivery})"),
            }
        )),
        "joined" => Said::Joined(field("queue.group")),
        "listening" => Said::Listening(field("http.address")),
        "cut" => match fields.get("cut.seconds").and_then(Value::as_u64) {
            Some(seconds) => Said::Cut(Cut {
                process: field("cut.process"),
                server: field("cut.server"),
                seconds,
            }),
            None => Said::Nothing,
        },
        "routine" | "request" => Said::Nothing,
        notice => {
            let line = format!("{}{}{}", level(&fields), field("message"), rest(&fields));
            if notice == "outage" { Said::Outage(line) } else { Said::Line(line) }
        }
    }
}

/// The level, if it is a warning or an error.
fn level(fields: &Map<String, Value>) -> &'static str {
    match fields.get("level").and_then(Value::as_str) {
        Some("ERROR") => "ERROR ",
        Some("WARN") => "WARN ",
        _ => "",
    }
}

fn rest(fields: &Map<String, Value>) -> String {
    fields
        .iter()
        .filter(|(name, _)| !HIDDEN.contains(&name.as_str()))
        .map(|(name, value)| format!("  {}={}", shown(name), plain(value)))
        .collect()
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => shown(text).into_owned(),
        other => shown(&other.to_string()).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processed_event_is_shown_with_its_entity_and_a_redelivery_with_its_number() {
        let line = |delivery: u8| {
            format!(
                r#"{{"level":"INFO","notice":"event_handled","event.type":"ticket:created",
                "event.sequence":7,"event.subject":"a-ticket","event.delivery":{delivery}}}"#
            )
        };
        let first = Said::Event("processed ticket:created #7 of ticket a-ticket".to_owned());
        assert_eq!(read(&line(1)), first);
        let third =
            Said::Event("processed ticket:created #7 of ticket a-ticket (delivery 3)".to_owned());
        assert_eq!(read(&line(3)), third);
    }

    #[test]
    fn control_characters_in_a_log_line_are_escaped() {
        let line = r#"{"level":"WARN","message":"m\u001b[2J","e\u009b":"a\nb\u202e"}"#;
        let Said::Line(said) = read(line) else { panic!("it is a line") };
        assert_eq!(said, r"WARN m\u{1b}[2J  e\u{9b}=a\nb\u{202e}");
        assert_eq!(read("panicked\u{1b}c"), Said::Line(r"panicked\u{1b}c".to_owned()));
    }

    #[test]
    fn a_warning_is_shown_with_level_and_fields_and_a_line_that_is_not_json_as_it_is() {
        let line = r#"{"timestamp":"t","level":"WARN","message":"m","error":"e","target":"x"}"#;
        assert_eq!(read(line), Said::Line("WARN m  error=e".to_owned()));
        assert_eq!(read("thread panicked"), Said::Line("thread panicked".to_owned()));
    }
}
