//! Keeps a `Snapshot` up to date: asks NATS and each replica independently, and combines their latest answers twice a
//! second. One that does not answer is shown as frozen and delays no other.

mod compose;
mod databases;
pub mod snapshot;
mod tracker;

use std::sync::Arc;

use common::bus::Shutdown;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use crate::{
    act::{Experiments, Ledger, Rights},
    sources::{
        ANSWER_TIMEOUT, ASK_EVERY,
        nats::{Nats, NatsReport},
        replicas::{self, Directory, Replicas, State},
    },
};
use compose::Composer;
use snapshot::Snapshot;

/// The newest snapshot as JSON, to be watched. Empty until there is one.
pub type Newest = watch::Receiver<Arc<str>>;
/// Receives each snapshot.
type Sink = Box<dyn Fn(Snapshot) -> anyhow::Result<()> + Send>;

/// What can be done on the page, and its results.
#[derive(Debug, Clone)]
pub struct Acts {
    /// Who may act.
    pub rights: Rights,
    /// Whether the system runs on this machine, so that it can be broken.
    pub breakable: bool,
    /// Whether its links can be cut.
    pub cuttable: bool,
    /// The counts of the tickets that loads posted.
    pub ledger: Ledger,
    /// The experiments and their outcomes.
    pub experiments: Experiments,
}

/// The state of NATS, and its last report.
#[derive(Debug, Clone)]
struct NatsKnown {
    state: State,
    why: String,
    report: Option<Arc<NatsReport>>,
}

/// Starts to watch, for viewers that read JSON. Returns the newest snapshot and the replicas.
pub fn spawn(
    nats: Nats,
    directory: Directory,
    acts: Acts,
    shutdown: &Shutdown,
) -> (Newest, watch::Receiver<Replicas>) {
    let (newest, watched) = watch::channel(Arc::from(""));
    let sink = move |snapshot: Snapshot| {
        newest.send_replace(serde_json::to_string(&snapshot)?.into());
        Ok(())
    };
    (watched, watch_all(nats, directory, acts, Box::new(sink), shutdown))
}

/// Starts to watch, for a viewer in this process that only looks.
pub fn snapshots(
    nats: Nats,
    directory: Directory,
    shutdown: &Shutdown,
) -> watch::Receiver<Option<Arc<Snapshot>>> {
    let (newest, watched) = watch::channel(None);
    let sink = move |snapshot| {
        newest.send_replace(Some(Arc::new(snapshot)));
        Ok(())
    };
    let acts = Acts {
        rights: Rights::ReadOnly,
        breakable: false,
        cuttable: false,
        ledger: Ledger::default(),
        experiments: Experiments::default(),
    };
    watch_all(nats, directory, acts, Box::new(sink), shutdown);
    watched
}

fn watch_all(
    nats: Nats,
    directory: Directory,
    acts: Acts,
    sink: Sink,
    shutdown: &Shutdown,
) -> watch::Receiver<Replicas> {
    let unknown =
        NatsKnown { state: State::Down, why: "it has not answered yet".to_owned(), report: None };
    let (known, nats_known) = watch::channel(unknown);
    shutdown.spawn("watch of NATS", follow_nats(nats, known, shutdown.clone()));
    let (known, replicas) = watch::channel(Replicas::new());
    shutdown.spawn("watch of replicas", replicas::follow(directory, known, shutdown.clone()));
    let composer = Composer::new(acts);
    let composing = compose_all(composer, nats_known, replicas.clone(), sink, shutdown.clone());
    shutdown.spawn("snapshots", composing);
    replicas
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
        let answered = if nats.is_connected() { nats.report().await.ok() } else { None };
        let (state, why) = match &answered {
            Some(_) => (State::Ready, ""),
            None => nats.state(ANSWER_TIMEOUT).await,
        };
        known.send_modify(|known| {
            (known.state, known.why) = (state, why.to_owned());
            known.report = answered.map(Arc::new).or_else(|| known.report.take());
        });
    }
}

async fn compose_all(
    mut composer: Composer,
    nats: watch::Receiver<NatsKnown>,
    replicas: watch::Receiver<Replicas>,
    sink: Sink,
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
        sink(snapshot)?;
    }
}
