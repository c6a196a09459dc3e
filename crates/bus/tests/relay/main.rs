//! The path of an event from its commit to the stream, and again if the stream loses it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod full_disk;
mod losses;
mod moved;
mod order;
mod plans;
mod rollout;
mod settings;
mod stores;
mod timelines;
mod world;
