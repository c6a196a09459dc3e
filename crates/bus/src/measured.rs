//! Descriptions of the bus's metrics.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

use crate::log::COUNTED;

/// Describes the bus's metrics to the process's recorder. Call it after the recorder is installed.
pub fn describe_metrics() {
    for (name, text) in [
        ("bus_connected", "1 while NATS is connected, else 0."),
        (
            "bus_outbox_depth",
            &*format!("Events that wait to be published; an estimate above {COUNTED}."),
        ),
        ("bus_lost_events", "Events that a stream has lost and that wait to be republished."),
        (
            "bus_topology_refused",
            "1 while a stream or group is unusable until an operator corrects it.",
        ),
        ("bus_dead_letters", "Dead letters now; NaN while Postgres does not answer."),
        ("bus_in_hand", "Events that this process has received and not yet answered."),
        (
            "bus_last_sequence",
            "The stream sequence of the newest event that this process received.",
        ),
        ("bus_group_members", "Processes that hold a lease in the queue group."),
    ] {
        describe_gauge!(name, text.to_owned());
    }
    describe_gauge!(
        "bus_outbox_oldest_seconds",
        Unit::Seconds,
        "How long the oldest event has waited to be published."
    );
    for (name, text) in [
        ("bus_published_total", "Events that their stream has confirmed."),
        ("bus_refilled_total", "Events republished because a stream had lost them."),
        ("bus_delivered_total", "Events received."),
        ("bus_redelivered_total", "Events received that had been delivered before."),
        ("bus_streams_remade_total", "Streams recreated because their disk had been full."),
        ("bus_acked_total", "Acks that the server has confirmed."),
        ("bus_duplicates_total", "Events received that had taken effect before."),
        ("bus_retried_total", "Events returned for a retry after a failure."),
        ("bus_dead_lettered_total", "Events that became dead letters."),
    ] {
        describe_counter!(name, text);
    }
    describe_histogram!(
        "bus_handler_seconds",
        Unit::Seconds,
        "How long one transaction of effects took."
    );
    describe_histogram!(
        "bus_event_delay_seconds",
        Unit::Seconds,
        "From the time of an event to the commit of its effect here."
    );
}

/// Sets how many events a member of a group has received and not yet answered, and the newest
/// sequence that it received; 0 if none.
#[expect(clippy::cast_precision_loss, reason = "gauges")]
pub(crate) fn member(group: &'static str, in_hand: usize, last_sequence: u64) {
    metrics::gauge!("bus_in_hand", "group" => group).set(in_hand as f64);
    if last_sequence > 0 {
        metrics::gauge!("bus_last_sequence", "group" => group).set(last_sequence as f64);
    }
}
