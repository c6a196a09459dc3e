//! A service's log lines as a person wants to read them.

use common::bus::shown;
use serde_json::{Map, Value};

/// What a line means for the view.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// One of the many about single events.
    Event(String),
    /// The process takes requests at this address.
    Listening(String),
    /// The process has joined this queue group.
    Joined(String),
    /// NATS or Postgres is away from the process, or back.
    Outage(String),
    /// Anything else that a person may want to know.
    Line(String),
    /// Only for the log file.
    Nothing,
}

/// Fields that say nothing beside the process's name and the message.
const HIDDEN: [&str; 6] = ["timestamp", "level", "target", "message", "client.id", "notice"];

/// Reads a line of a service.
pub(super) fn read(line: &str) -> Said {
    let Ok(Value::Object(fields)) = serde_json::from_str::<Value>(line) else {
        // A panic's words, for one.
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
            "took {} #{} of {} {}{}",
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
        "routine" | "request" => Said::Nothing,
        notice => {
            let line = format!("{}{}{}", level(&fields), field("message"), rest(&fields));
            if notice == "outage" { Said::Outage(line) } else { Said::Line(line) }
        }
    }
}

/// The level, if it is one to worry about.
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
    fn a_handled_event_names_itself_and_a_redelivery() {
        let line = |delivery: u8| {
            format!(
                r#"{{"level":"INFO","notice":"event_handled","event.type":"ticket:created",
                "event.sequence":7,"event.subject":"a-ticket","event.delivery":{delivery}}}"#
            )
        };
        let first = Said::Event("took ticket:created #7 of ticket a-ticket".to_owned());
        assert_eq!(read(&line(1)), first);
        let third =
            Said::Event("took ticket:created #7 of ticket a-ticket (delivery 3)".to_owned());
        assert_eq!(read(&line(3)), third);
    }

    #[test]
    fn what_a_service_says_moves_no_cursor() {
        let line = r#"{"level":"WARN","message":"m\u001b[2J","e\u009b":"a\nb\u202e"}"#;
        let Said::Line(said) = read(line) else { panic!("it is a line") };
        assert_eq!(said, r"WARN m\u{1b}[2J  e\u{9b}=a\nb\u{202e}");
        assert_eq!(read("panicked\u{1b}c"), Said::Line(r"panicked\u{1b}c".to_owned()));
    }

    #[test]
    fn a_warning_keeps_its_level_and_fields_and_other_output_is_shown_as_it_is() {
        let line = r#"{"timestamp":"t","level":"WARN","message":"m","error":"e","target":"x"}"#;
        assert_eq!(read(line), Said::Line("WARN m  error=e".to_owned()));
        assert_eq!(read("thread panicked"), Said::Line("thread panicked".to_owned()));
    }
}
