//! What tells the consumers of `listen` from those of services, and one listener's from another's.

use std::collections::HashMap;

use async_nats::jetstream::consumer::Config;
use common::bus::ClientId;

/// Marks the consumers that are made here, and so belong to no service.
const MADE_HERE: (&str, &str) = ("made-by", "ticketing listen");
/// Names the listener of a consumer that no group shares.
const CLIENT_ID: &str = "client-id";

/// The marks of a new consumer: of this listener alone, or of a queue group.
pub(super) fn of(alone: Option<&ClientId>) -> HashMap<String, String> {
    let made_here = (MADE_HERE.0.to_owned(), MADE_HERE.1.to_owned());
    let client_id = alone.map(|id| (CLIENT_ID.to_owned(), id.to_string()));
    client_id.into_iter().chain([made_here]).collect()
}

/// Whether a consumer was made here.
pub(super) fn made_here(consumer: &Config) -> bool {
    consumer.metadata.get(MADE_HERE.0).map(String::as_str) == Some(MADE_HERE.1)
}

/// The client id of the listener whose consumer this is, if no group shares it.
pub(crate) fn on_its_own(consumer: &Config) -> Option<&str> {
    consumer.metadata.get(CLIENT_ID).map(String::as_str)
}
