//! The service's events.

use common::events::{asyncapi::ServiceEvents, ticket};

use crate::listener::OrderListener;

/// The events that the service publishes and receives.
pub const EVENTS: ServiceEvents = ServiceEvents::of::<OrderListener>(ticket::DOCUMENTED);
