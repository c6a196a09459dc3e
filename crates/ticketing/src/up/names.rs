//! The names of the servers and of processes that have a part of their own.

pub(super) const NATS: &str = "nats";
pub(super) const POSTGRES: &str = "postgres";
/// The servers.
pub(super) const SERVERS: [&str; 2] = [NATS, POSTGRES];
/// The client id of the tickets service.
pub(super) const TICKETS: &str = "tickets-1";
/// The client id of the first replica of the orders service.
pub(super) const ORDERS: &str = "orders-1";
/// The client id of the console.
pub(super) const CONSOLE: &str = "console";
