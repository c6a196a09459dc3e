//! Metadata that distinguishes consumers of `listen` from those of services, and listeners from each other.

use std::collections::HashMap;

use async_nats::jetstream::consumer::Config;
use common::bus::ClientId;
use ticketing_console::sources::nats::LISTENER;

/// Marks the consumers that `listen` creates, which belong to no service.
const MADE_HERE: (&str, &str) = ("made-by", "ticketing listen");

/// The metadata of a new consumer: of this listener alone, or of a queue group (`None`).
pub(super) fn of(alone: Option<&ClientId>) -> HashMap<String, String> {
    let made_here = (MADE_HERE.0.to_owned(), MADE_HERE.1.to_owned());
    let client_id = alone.map(|id| (LISTENER.to_owned(), id.to_string()));
    client_id.into_iter().chain([made_here]).collect()
}

/// Whether `listen` created this consumer.
pub(super) fn made_here(consumer: &Config) -> bool {
    consumer.metadata.get(MADE_HERE.0).map(String::as_str) == Some(MADE_HERE.1)
}

/// The client id of the listener that owns this consumer, unless a group shares it.
pub(crate) fn on_its_own(consumer: &Config) -> Option<&str> {
    consumer.metadata.get(LISTENER).map(String::as_str)
}
