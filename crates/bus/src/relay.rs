//! Publishes the events of the outbox, and republishes what a stream has lost.
//!
//! Each process has a relay for each of its streams. Of all relays of one stream and one database, one is
//! active; another takes over within seconds when it ends. The active relay publishes a page of events, waits
//! for the stream's confirmation, then records where the page went and moves the cursor in one transaction. If
//! it dies in between, the page is published again under the same `Nats-Msg-Id`.

use std::sync::Arc;

use tokio::sync::watch;

use crate::{
    connection::Bus,
    event::Stream,
    log::{depth, stream_relay::StreamRelay},
    pool::Pool,
    server_version,
    shutdown::Shutdown,
};

/// Wakes the relays of this process after a commit. Clones wake the same relays.
#[derive(Debug, Clone)]
pub struct Wake(Arc<watch::Sender<()>>);

impl Default for Wake {
    /// Wakes no relay.
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(())))
    }
}

impl Wake {
    /// Tells the relays that events were committed. Never blocks.
    pub fn wake(&self) {
        self.0.send_replace(());
    }
}

/// Publishes the events of one database to the streams of its service.
#[derive(Debug)]
pub struct Relay {
    bus: Bus,
    pool: Pool,
    streams: &'static [&'static Stream],
    wake: Wake,
}

impl Relay {
    /// A relay, and what wakes it after a commit.
    #[must_use]
    pub fn new(
        bus: Bus,
        pool: impl Into<Pool>,
        streams: &'static [&'static Stream],
    ) -> (Self, Wake) {
        let wake = Wake::default();
        (Self { bus, pool: pool.into(), streams, wake: wake.clone() }, wake)
    }

    /// Spawns the tasks that publish until the process stops. A stream that is unavailable does not delay the
    /// others.
    pub fn spawn(self, shutdown: &Shutdown) {
        let depth = depth::measure(self.pool.clone(), self.streams, shutdown.clone());
        shutdown.spawn("outbox depth", depth);
        let version = server_version::check(self.bus.clone(), shutdown.clone());
        shutdown.spawn("server version", version);
        for stream in self.streams {
            let (bus, pool, wake) = (self.bus.clone(), self.pool.clone(), self.wake.0.subscribe());
            let relay = StreamRelay::new(bus, pool, stream, wake);
            shutdown.spawn("relay", relay.run(shutdown.clone()));
        }
    }
}
