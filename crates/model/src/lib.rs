//! A model of the messaging protocol, explored exhaustively within bounds: every interleaving of
//! steps, with every fault at every moment. It shows that no event is lost or applied twice,
//! including cases that a test on real servers may never hit.
//!
//! [`Bounds`](bounds::Bounds) says what to explore, and [`explore`](explore::explore) does it. A
//! [`Mistake`](bounds::Mistake) is a wrong variant of the protocol. The explorer must find each of
//! them: a model that finds no fault in a wrong protocol proves nothing about the correct one.
//!
//! It mirrors the code, and does not run it. If you change the order of steps in the relay, what is
//! compared, or what is in one transaction, change both.

pub mod bounds;
pub mod compare;
pub mod explore;
pub mod faults;
pub mod group;
pub mod lease;
pub mod ledger;
pub mod log;
pub mod page;
pub mod relay;
pub mod stream;
pub mod system;
pub mod tell;
