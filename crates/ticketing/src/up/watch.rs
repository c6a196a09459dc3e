//! Polls the real state of every process, of the streams and of Postgres, with the console's code, and shows it
//! in the view.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use common::bus::{Bus, Options, Shutdown, Store};
use ticketing_console::{
    live::{
        self,
        snapshot::{Flow, Snapshot},
    },
    sources::{
        ANSWER_TIMEOUT, ASK_EVERY,
        monitor::http_client,
        nats::Nats,
        readiness::readiness,
        replicas::{Directory, State},
    },
};
use tokio::{
    sync::watch,
    time::{interval, timeout},
};

use super::{
    names::{CONSOLE, POSTGRES},
    rows::Look,
    view::View,
};
use crate::{
    postgres::{self, Unanswered},
    services,
};

/// How often Postgres is asked.
const ASK_POSTGRES_EVERY: Duration = Duration::from_secs(1);
/// How long NATS, just started or external, may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The name of the connection to NATS.
const NAME: &str = "panel";

/// Watches the system until it is closed.
pub(super) struct Watch {
    bus: Bus,
    shutdown: Shutdown,
}

/// The state of a part, and why it is not ready; `None` until it has been asked.
type Known = Option<(State, String)>;

impl Watch {
    /// Starts watching the system in this data folder.
    pub(super) async fn begin(
        view: Arc<View>,
        nats_url: &str,
        database_url: String,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let (shutdown, _) = Shutdown::new();
        let options = Options { servers: nats_url.to_owned(), ..Options::new(NAME.parse()?) };
        let bus = Bus::connect(&options, &shutdown).await?;
        let directory = Directory { services: Vec::new(), data_folder: Some(folder.to_owned()) };
        let snapshots = live::snapshots(Nats::new(bus.clone()), directory.clone(), &shutdown);
        let (known, postgres) = watch::channel(None);
        shutdown.spawn("watch of postgres", follow_postgres(database_url, known, shutdown.clone()));
        let (known, console) = watch::channel(None);
        shutdown.spawn("watch of the console", follow_console(directory, known, shutdown.clone()));
        let others = [(POSTGRES, postgres), (CONSOLE, console)];
        shutdown.spawn("panel", show(view, snapshots, others, shutdown.clone()));
        Ok(Self { bus, shutdown })
    }

    /// Checks that every stream has the storage that the store needs.
    ///
    /// # Errors
    /// A stream has another storage, which NATS cannot change.
    pub(super) async fn refuse_other_storage(&self, store: Store) -> anyhow::Result<()> {
        let connected = timeout(CONNECT_TIMEOUT, self.bus.connected()).await;
        connected.context("NATS does not answer, so its streams cannot be checked")?;
        for stream in services::all().flat_map(|service| service.events.streams()) {
            let found = self.bus.jetstream.get_stream(stream.name).await;
            let Ok(found) = found else { continue };
            let has = found.cached_info().config.storage;
            let name = format!("{has:?}").to_lowercase();
            ensure!(
                has == store.storage(),
                "stream {} is in {name} storage, which --store {store} does not use and NATS cannot change: start \
                 over with --fresh, which deletes all data, or omit --store",
                stream.name
            );
        }
        Ok(())
    }

    /// Stops watching.
    pub(super) async fn close(self) {
        self.shutdown.begin();
        self.bus.close().await;
    }
}

async fn follow_postgres(url: String, known: watch::Sender<Known>, shutdown: Shutdown) {
    let mut tick = interval(ASK_POSTGRES_EVERY);
    loop {
        tokio::select! {
            () = shutdown.begun() => return,
            _ = tick.tick() => {}
        }
        known.send_replace(Some(match postgres::probe(&url, ANSWER_TIMEOUT).await {
            Ok(()) => (State::Ready, String::new()),
            Err(Unanswered { state, why }) => (state, why),
        }));
    }
}

/// The console watches everything but itself.
async fn follow_console(
    directory: Directory,
    known: watch::Sender<Known>,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let (client, mut tick) = (http_client(ANSWER_TIMEOUT)?, interval(ASK_EVERY));
    loop {
        tokio::select! {
            () = shutdown.begun() => return Ok(()),
            _ = tick.tick() => {}
        }
        if let Some(url) = directory.console().await {
            known.send_replace(Some(readiness(&client, &url).await));
        }
    }
}

async fn show(
    view: Arc<View>,
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    others: [(&str, watch::Receiver<Known>); 2],
    shutdown: Shutdown,
) {
    let mut tick = interval(ASK_EVERY);
    loop {
        tokio::select! {
            () = shutdown.begun() => return,
            _ = tick.tick() => {}
        }
        let snapshot = snapshots.borrow().clone();
        let known = others.iter().filter_map(|(name, known)| Some((name, known.borrow().clone()?)));
        let mut looks: Vec<_> = known
            .map(|(name, (state, why))| Look {
                name: (*name).to_owned(),
                state,
                why,
                detail: String::new(),
            })
            .collect();
        let Some(snapshot) = snapshot else { continue };
        looks.extend(snapshot.parts.iter().map(|part| Look {
            name: part.name.clone(),
            state: part.state,
            why: part.why.clone(),
            detail: detail(&snapshot, &part.name),
        }));
        view.look(
            looks,
            snapshot.flows.iter().map(|flow| (flow.stream.clone(), way(flow))).collect(),
        );
    }
}

/// How many events a member of a queue group has acked, and how many it has in hand.
fn detail(snapshot: &Snapshot, client_id: &str) -> String {
    let mut groups = snapshot.flows.iter().flat_map(|flow| &flow.groups);
    let member =
        groups.find_map(|group| group.members.iter().find(|member| member.client_id == client_id));
    member.map_or_else(String::new, |member| {
        format!("  acked {}, in hand {}", number(member.acknowledged), number(member.in_hand))
    })
}

/// The state of a stream's events.
fn way(flow: &Flow) -> String {
    let outbox = flow
        .publisher
        .as_ref()
        .map_or(String::new(), |publisher| format!("outbox {}, ", number(publisher.waiting)));
    if !flow.current {
        return format!("{outbox}the rest is unknown: NATS does not answer");
    }
    let groups = flow.groups.iter().map(|group| {
        let (name, lag, in_hand) = (&group.name, group.waiting, group.in_hand);
        let dead = number(group.dead_letters);
        format!("  {name}: lag {lag}, in hand {in_hand}, dead letters {dead}")
    });
    format!("{outbox}stream {}{}", flow.messages, groups.collect::<String>())
}

/// A number that may be unknown.
fn number(number: Option<f64>) -> String {
    number.map_or("?".to_owned(), |number| format!("{number:.0}"))
}
