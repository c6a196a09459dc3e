//! The history of events, for people who look for one: the events that a service committed about an entity and
//! where they were [published], their outcome in its queue groups ([received]), and its [newest] events, to be
//! checked one by one. Nothing here is needed to deliver an event; each query has a bounded cost.

pub mod newest;
pub mod published;
pub mod received;

/// The longest id of an entity that can be asked about, in characters.
pub const LONGEST_ENTITY: usize = 200;
