//! Publishes what the log holds, and again what a stream has lost.
//!
//! Every process has a relay for each of its streams; of those of one stream in one database, one works
//! at a time, and another takes over within seconds of its end. A page of events goes out, the stream
//! confirms it, then one transaction writes where it went and moves the cursor. A relay that dies in between
//! leaves the cursor where it was, and the same `Nats-Msg-Id` goes out again.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{
    connection::Bus, event::Stream, log::stream_relay::StreamRelay, outbox, pool::Pool,
    server_version, shutdown::Shutdown, topology,
};

/// How long an event stays in the log, to be published again should its stream lose it: as long as the
/// stream would have kept it.
pub const RETENTION: Duration = topology::STREAM_MAX_AGE;

/// Wakes the relays of this process after a commit. Clones wake the same ones.
#[derive(Debug, Clone)]
pub struct Wake(Arc<watch::Sender<()>>);

impl Default for Wake {
    /// Wakes nobody.
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(())))
    }
}

impl Wake {
    /// Tells the relays that something was committed to the log. Never waits.
    pub fn wake(&self) {
        self.0.send_replace(());
    }
}

/// Publishes from one database's log to the streams that its service writes to.
#[derive(Debug)]
pub struct Relay {
    bus: Bus,
    pool: Pool,
    streams: &'static [&'static Stream],
    wake: Wake,
}

impl Relay {
    /// A relay, and what wakes it.
    #[must_use]
    pub fn new(
        bus: Bus,
        pool: impl Into<Pool>,
        streams: &'static [&'static Stream],
    ) -> (Self, Wake) {
        let wake = Wake::default();
        (Self { bus, pool: pool.into(), streams, wake: wake.clone() }, wake)
    }

    /// Relays until the process stops. A stream that is away, or refused, holds up no other.
    ///
    /// # Errors
    /// Never; the type is what [`Shutdown::spawn`] takes.
    pub async fn run(self, shutdown: Shutdown) -> anyhow::Result<()> {
        let depth = outbox::measure(self.pool.clone(), self.streams, shutdown.clone());
        shutdown.spawn("outbox depth", depth);
        let version = server_version::look(self.bus.clone(), shutdown.clone());
        shutdown.spawn("server version", version);
        for stream in self.streams {
            let (bus, pool, wake) = (self.bus.clone(), self.pool.clone(), self.wake.0.subscribe());
            let relay = StreamRelay::new(bus, pool, stream, wake);
            shutdown.spawn("relay", relay.run(shutdown.clone()));
        }
        Ok(())
    }
}
