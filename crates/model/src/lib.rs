//! A model of the messaging protocol, explored exhaustively within bounds: every order of every step,
//! with every fault at every moment. It shows that no event is lost or applied twice, whatever a test on
//! real servers does not happen to meet.
//!
//! [`Bounds`](bounds::Bounds) says what to explore, and [`explore`](explore::explore) does it. A
//! [`Mistake`](bounds::Mistake) is a way to do it wrong. Each must be found: a model that finds nothing
//! wrong with a wrong protocol proves nothing of the right one.
//!
//! It is written beside the code, and does not run it. Whoever changes the order of steps in the relay,
//! what is compared, or what is in one transaction, changes both.

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
