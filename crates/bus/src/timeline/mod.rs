//! The life of events, for people who look for one: what a service committed about an entity and where that was
//! [published], and what became of events in its queue groups ([received]); and its [newest] events, to be checked one by one. Nothing here is needed to deliver an
//! event; each look has a bounded cost.

pub mod newest;
pub mod published;
pub mod received;
