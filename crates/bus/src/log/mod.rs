//! The outbox as a log, and the relay's view of it.
//!
//! An event is one row that never changes. The [`Cursor`](cursor::Cursor) of a stream says which rows have been
//! published. [`Ranges`](ranges::Ranges) say where they went, so that the events a stream loses can be found and
//! republished. Only the holder of the stream's [`session`] writes either.
//!
//! The files by layer, each using only those above it: `place`, `session`; `page`, `cursor`, `ranges`,
//! `losses`, `import`, `retention`, `wake`, `entity`, `whereabouts`; `depth`, `publish`; `state`, the state of
//! one stream's relay; `verify`; `send`; `step`, `refill`; `remake`; `stream_relay`, the loop.

mod cursor;
pub(crate) mod depth;
pub(crate) mod entity;
mod error;
mod import;
mod losses;
mod page;
mod place;
mod publish;
mod ranges;
mod refill;
mod remake;
mod retention;
mod send;
mod session;
mod state;
mod step;
pub(crate) mod stream_relay;
mod verify;
mod wake;
pub(crate) mod whereabouts;

pub(crate) use page::COUNTED;
