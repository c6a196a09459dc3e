//! The service's events.

use common::events::{asyncapi::ServiceEvents, order};

use crate::listener::TicketListener;

/// The events that the service publishes and receives.
pub const EVENTS: ServiceEvents = ServiceEvents::of::<TicketListener>(order::DOCUMENTED);
