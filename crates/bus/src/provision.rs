//! Creates and corrects a queue group's consumer for members without that permission: their NATS account imports
//! the stream from another ([`Options::imported`](crate::Options::imported)).
//!
//! A provisioner is a process with its own user in the account that holds the stream. It does what members do
//! when all services share one account: it creates the group's consumer if it is missing, and corrects what
//! was edited. The stream belongs to its publisher.

use std::time::Duration;

use tokio::{sync::watch, time::sleep};
use tracing::{debug, info};

use crate::{
    backoff::Backoff,
    connection::Bus,
    listener::Listener,
    shutdown::Shutdown,
    watch::{Readiness, Watch},
};

/// The pause after a failure of the server. Short, because only one process asks.
const RETRY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(500));
/// How often the consumer is checked. More often than members do, because they wait for it.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// Creates a listener's queue group and keeps it correct until the process stops. Returns a watch: whether
/// the group exists.
pub fn spawn<L: Listener>(bus: &Bus, shutdown: &Shutdown) -> watch::Receiver<Readiness> {
    let ready = watch::Sender::new(Readiness::Waiting("NATS is unavailable".to_owned()));
    let (ready_once, stopping) = (ready.subscribe(), shutdown.clone());
    let (bus, watch) = (bus.clone(), Watch::of_provisioner::<L>(bus.clone()));
    shutdown.spawn("queue group", async move {
        tokio::select! {
            () = stopping.begun() => {}
            () = provide(bus, watch, L::QUEUE_GROUP, ready) => {}
        }
    });
    ready_once
}

async fn provide(bus: Bus, mut watch: Watch, group: &'static str, ready: watch::Sender<Readiness>) {
    let (mut backoff, mut connection) = (RETRY, 0);
    loop {
        let epoch = bus.connected().await;
        if epoch != connection {
            watch.forget();
            connection = epoch;
        }
        let pause = match watch.check().await {
            Ok(()) => {
                backoff.reset();
                if ready.send_replace(Readiness::Ready) != Readiness::Ready {
                    info!(queue.group = group, "the queue group exists and is correct");
                }
                CHECK_EVERY
            }
            Err(error) => {
                debug!(%error, "cannot create or correct the queue group yet");
                Readiness::waits_for(&ready, error.to_string());
                watch.report(&error).unwrap_or_else(|| backoff.pause())
            }
        };
        sleep(pause).await;
    }
}
