//! Keeps a `Snapshot` up to date: asks NATS and the replicas each by itself, and puts together twice a
//! second what they have said. One that says nothing is shown as frozen and keeps nobody waiting.

mod compose;
pub mod snapshot;
mod tracker;

use std::sync::Arc;

use common::bus::Shutdown;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tracing::debug;

use crate::{
    act::{Ledger, Rights},
    sources::{
        ASK_EVERY,
        nats::{Nats, NatsReport},
        replicas::{self, Directory, Replicas, State},
    },
};
use compose::Composer;

/// The newest snapshot as JSON, to be watched. Empty until there is one.
pub type Newest = watch::Receiver<Arc<str>>;

/// What can be done by the page.
#[derive(Debug, Clone)]
pub struct Acts {
    /// Who may act.
    pub rights: Rights,
    /// Whether the system is on this machine, to be broken.
    pub breakable: bool,
    /// The account of what the console has posted.
    pub ledger: Ledger,
}

/// What NATS said last.
#[derive(Debug, Clone)]
struct NatsKnown {
    state: State,
    why: String,
    report: Option<Arc<NatsReport>>,
}

/// Begins to watch. Returns what is known of everything, and of the replicas.
pub fn spawn(
    nats: Nats,
    directory: Directory,
    acts: Acts,
    shutdown: &Shutdown,
) -> (Newest, watch::Receiver<Replicas>) {
    let unknown =
        NatsKnown { state: State::Away, why: "it has not answered yet".to_owned(), report: None };
    let (known, nats_known) = watch::channel(unknown);
    shutdown.spawn("watch of NATS", follow_nats(nats, known, shutdown.clone()));
    let (known, replicas) = watch::channel(Replicas::new());
    shutdown.spawn("watch of replicas", replicas::follow(directory, known, shutdown.clone()));
    let (newest, watched) = watch::channel(Arc::from(""));
    let composer = Composer::new(acts);
    let composing = compose_all(composer, nats_known, replicas.clone(), newest, shutdown.clone());
    shutdown.spawn("snapshots", composing);
    (watched, replicas)
}

async fn follow_nats(
    nats: Nats,
    known: watch::Sender<NatsKnown>,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let mut tick = interval(ASK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.begun() => return Ok(()),
            _ = tick.tick() => {}
        }
        let answered = if nats.is_connected() {
            nats.report().await
        } else {
            Err(anyhow::anyhow!("there is no connection to it"))
        };
        known.send_modify(|known| match answered {
            Ok(report) => {
                (known.state, known.why) = (State::Ready, String::new());
                known.report = Some(Arc::new(report));
            }
            Err(error) => {
                debug!(error = format!("{error:#}"), "NATS did not answer");
                let connected = nats.is_connected();
                known.state = if connected { State::Frozen } else { State::Away };
                known.why = format!("{error:#}");
            }
        });
    }
}

async fn compose_all(
    mut composer: Composer,
    nats: watch::Receiver<NatsKnown>,
    replicas: watch::Receiver<Replicas>,
    newest: watch::Sender<Arc<str>>,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let mut tick = interval(ASK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.begun() => return Ok(()),
            _ = tick.tick() => {}
        }
        let nats = nats.borrow().clone();
        let snapshot = composer.compose(&nats, &replicas.borrow());
        newest.send_replace(serde_json::to_string(&snapshot)?.into());
    }
}
