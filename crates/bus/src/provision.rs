//! A queue group's consumer, made and kept right for members that have no right to do so: those whose
//! account imports the stream from another's ([`Options::imported`](crate::connection::Options)).
//!
//! A provisioner is a process of its own, with a user of its own in the account that holds the stream. It
//! knows what the group is from the release that it is of, and does about it what members do where all share
//! one account: makes it if it is missing, and sets right what was edited. The stream it leaves to who
//! publishes there.

use std::time::Duration;

use tokio::{sync::watch, time::sleep};
use tracing::{debug, info};

use crate::{
    connection::Bus,
    listener::Listener,
    shutdown::Shutdown,
    watch::{Readiness, Watch},
};

/// The pause after a failure of the server. One process asks, so there is no need to be sparing.
const PAUSE: Duration = Duration::from_millis(500);
/// How often the consumer is looked at. More often than members do: they wait for it.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Provides the queue group of a listener until the process stops. Returns whether it has been there, to
/// watch.
pub fn spawn<L: Listener>(bus: &Bus, shutdown: &Shutdown) -> watch::Receiver<Readiness> {
    let ready = watch::Sender::new(Readiness::Waiting("NATS is away".to_owned()));
    let (ready_once, stopping) = (ready.subscribe(), shutdown.clone());
    let (bus, watch) = (bus.clone(), Watch::of_provisioner::<L>(bus.clone()));
    shutdown.spawn("queue group", async move {
        tokio::select! {
            () = stopping.begun() => {}
            () = provide(bus, watch, L::QUEUE_GROUP, ready) => {}
        }
        Ok(())
    });
    ready_once
}

async fn provide(bus: Bus, mut watch: Watch, group: &'static str, ready: watch::Sender<Readiness>) {
    let mut connection = 0;
    loop {
        let epoch = bus.connected().await;
        if epoch != connection {
            watch.forget();
            connection = epoch;
        }
        let pause = match watch.look().await {
            Ok(()) => {
                if ready.send_replace(Readiness::Ready) != Readiness::Ready {
                    info!(queue.group = group, "the queue group is there");
                }
                LOOK_EVERY
            }
            Err(error) => {
                let why = format!("{error:#}");
                debug!(error = why, "cannot provide the queue group yet");
                ready.send_if_modified(|ready| match ready {
                    Readiness::Waiting(known) if *known != why => {
                        known.clone_from(&why);
                        true
                    }
                    _ => false,
                });
                watch.note(&error).unwrap_or(PAUSE)
            }
        };
        sleep(pause).await;
    }
}
