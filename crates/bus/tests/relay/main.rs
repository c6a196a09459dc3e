//! The way out: from a commit to the stream, and again when the stream has lost it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod full_disk;
mod losses;
mod moved;
mod order;
mod plans;
mod rollout;
mod settings;
mod world;
