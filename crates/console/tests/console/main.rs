//! The console as a process, beside a real nats-server.

mod streaming;
mod world;
