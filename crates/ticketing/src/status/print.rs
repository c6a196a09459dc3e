//! Prints a [`Status`] as text.

use common::bus::shown;
use ticketing_console::sources::replicas::State;
use time::format_description::well_known::Rfc3339;

use super::{ConsumerStatus, Member, Part, Status};
use crate::out::say;

/// The name of a state.
pub(crate) fn name(state: State) -> &'static str {
    match state {
        State::Ready => "ready",
        State::NotReady => "not ready",
        State::Down => "down",
        State::Frozen => "frozen",
    }
}

pub(super) fn print(status: &Status, is_up: bool) -> anyhow::Result<()> {
    say!("NATS {}", status.nats_url);
    for Part { name: part, state, why } in &status.parts {
        say!("{}", format!("{part:<24} {:<9} {}", name(*state), shown(why)).trim_end());
    }
    for stream in &status.streams {
        say!(
            "\nStream {}: {} events{}, the newest is #{}",
            shown(&stream.name),
            stream.messages,
            if stream.in_memory { " in memory" } else { "" },
            stream.last_sequence
        );
        stream.queue_groups.iter().for_each(|group| consumer("queue group", group));
        stream.listeners.iter().for_each(|listener| consumer("listener", listener));
    }
    if !status.members.is_empty() {
        members(status)?;
    }
    if !is_up {
        say!("\nNo system is running from the data folder, so no databases are shown.");
    }
    for (name, database) in &status.databases {
        let rows: Vec<_> =
            database.rows.iter().map(|(table, rows)| format!("{rows} {table}")).collect();
        say!(
            "\nDatabase {name}: {}, {} events to publish, {} dead letters",
            rows.join(", "),
            database.outbox,
            database.dead_letters
        );
    }
    Ok(())
}

fn consumer(what: &str, consumer: &ConsumerStatus) {
    let ConsumerStatus { name, pending, unacknowledged, redelivered, waiting_pulls } = consumer;
    say!(
        "  {what} {}: {pending} pending, {unacknowledged} unacknowledged, {redelivered} redelivered, \
         {waiting_pulls} waiting pulls",
        shown(name),
    );
}

fn members(status: &Status) -> anyhow::Result<()> {
    say!(
        "\n{:<24} {:<10} {:<18} {:<9} {:>7} {:>7}  since",
        "Client id",
        "service",
        "queue group",
        "state",
        "in hand",
        "acked"
    );
    for member in &status.members {
        let Member { client_id, service, queue_groups, state, in_hand, acknowledged, .. } = member;
        let number = |number: Option<f64>| number.map_or("-".to_owned(), |n| format!("{n:.0}"));
        let since = member.since.format(&Rfc3339)?;
        let line = format!(
            "{client_id:<24} {:<10} {:<18} {:<9} {:>7} {:>7}  {since}  {}",
            shown(service),
            shown(&queue_groups.join(",")),
            state.map_or("-", name),
            number(*in_hand),
            number(*acknowledged),
            status.services.get(client_id).map_or("", String::as_str),
        );
        say!("{}", line.trim_end());
    }
    Ok(())
}
