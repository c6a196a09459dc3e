//! NATS and Postgres: started here and restarted when they exit, or external.

use std::{collections::BTreeMap, process::ExitStatus, sync::Arc, time::Duration};

use anyhow::Context;
use common::bus::Backoff;
use embedded::{NatsServer, Postgres, Progress, ports, postgres};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    folder::Folder,
    names::{NATS, POSTGRES},
    options::Options,
    view::View,
};
use crate::services::{self, Service};

/// What nats-server logs if its port is taken, and how many ports to try: a program that does not reserve
/// its ports may take one in between.
const TAKEN: &str = "address already in use";
const PORT_TRIES: u8 = 5;
/// The pauses before a server that exited is restarted.
const RESTART: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));

/// The servers and their addresses.
pub(super) struct Servers {
    pub(super) nats_url: String,
    pub(super) monitor_url: Option<String>,
    pub(super) databases: BTreeMap<String, String>,
    nats: Option<NatsServer>,
    postgres: Option<Postgres>,
}

impl Servers {
    /// Starts the servers that are not external, and creates a database for each service.
    pub(super) async fn start(
        options: &Options,
        folder: &Folder,
        view: &Arc<View>,
    ) -> anyhow::Result<Self> {
        let teller = view.clone();
        let progress: Progress = Arc::new(move |what| teller.progress(what));
        let nats = async {
            if options.nats_url.is_some() {
                return anyhow::Ok(None);
            }
            nats(options, folder, view, &progress).await.map(Some).context("cannot start NATS")
        };
        let postgres = async {
            if options.database_url.is_some() {
                return anyhow::Ok(None);
            }
            let mut server =
                Postgres::builder().data_dir(&folder.postgres).progress(progress.clone());
            if let Some(wanted) = options.ports().postgres {
                server = server.port(wanted_or_other(view, Postgres::NAME, wanted)?);
            }
            server.start().await.map(Some).context("cannot start Postgres")
        };
        let (nats, postgres) = tokio::try_join!(nats, postgres)?;
        let mut databases = BTreeMap::new();
        for Service { name, .. } in services::all() {
            let url = match (&options.database_url, &postgres) {
                (Some(url), _) => postgres::create_database(url, name)
                    .await
                    .context("cannot use the server of --database-url")?,
                (None, Some(server)) => server.create_database(name).await?,
                (None, None) => unreachable!("without a URL, a server was started"),
            };
            databases.insert((*name).to_owned(), url);
        }
        let nats_url = match (&options.nats_url, &nats) {
            (Some(url), _) => url.to_string(),
            (None, Some(server)) => server.url(),
            (None, None) => unreachable!("without a URL, a server was started"),
        };
        let monitor_url = nats.as_ref().map(NatsServer::monitor_url);
        view.progress_done();
        Ok(Self { nats_url, monitor_url, databases, nats, postgres })
    }

    /// Restarts a server whenever it exits, until `stop`; then stops both.
    pub(super) async fn supervise(
        self,
        folder: Arc<Folder>,
        view: Arc<View>,
        stop: CancellationToken,
    ) {
        let nats = async {
            if let Some(mut nats) = self.nats {
                supervise(&mut nats, &folder, &view, &stop).await;
                nats.stop().await;
                folder.remove_pid(NatsServer::NAME);
            }
        };
        let postgres = async {
            if let Some(mut postgres) = self.postgres {
                supervise(&mut postgres, &folder, &view, &stop).await;
                postgres.stop().await;
                folder.remove_pid(Postgres::NAME);
            }
        };
        tokio::join!(nats, postgres);
    }
}

/// Starts NATS on the wanted ports, or on others.
async fn nats(
    options: &Options,
    folder: &Folder,
    view: &View,
    progress: &Progress,
) -> anyhow::Result<NatsServer> {
    let (ports, mut tries) = (options.ports(), 0);
    loop {
        let port = |wanted| wanted_or_other(view, NatsServer::NAME, wanted);
        let server = NatsServer::builder()
            .store_dir(folder.nats())
            .with_password()
            .client_port(port(ports.nats)?)
            .monitor_port(port(ports.monitor)?)
            .progress(progress.clone());
        tries += 1;
        match server.start().await {
            // Another program took the port first.
            Err(error) if tries < PORT_TRIES && format!("{error:#}").contains(TAKEN) => {}
            started => return started,
        }
    }
}

/// What the supervisor needs from either server.
trait Server {
    const NAME: &'static str;
    fn pid(&self) -> Option<u32>;
    async fn ended(&self) -> ExitStatus;
    async fn start_again(&mut self) -> anyhow::Result<()>;
}

macro_rules! server {
    ($server:ty, $name:ident) => {
        impl Server for $server {
            const NAME: &'static str = $name;

            fn pid(&self) -> Option<u32> {
                self.process().map(embedded::process::Child::pid)
            }

            async fn ended(&self) -> ExitStatus {
                match self.process() {
                    Some(process) => process.wait().await,
                    None => std::future::pending().await,
                }
            }

            async fn start_again(&mut self) -> anyhow::Result<()> {
                self.restart().await
            }
        }
    };
}
server!(NatsServer, NATS);
server!(Postgres, POSTGRES);

async fn supervise<S: Server>(
    server: &mut S,
    folder: &Folder,
    view: &View,
    stop: &CancellationToken,
) {
    loop {
        if let Some(pid) = server.pid() {
            folder.write_pid(S::NAME, pid);
            view.runs(S::NAME, format!("process {pid}"));
        }
        tokio::select! {
            () = stop.cancelled() => return,
            status = server.ended() => view.say(S::NAME, &format!("exited ({status}), restarting")),
        }
        view.is_not(S::NAME, "down      restarting");
        let mut restart = RESTART;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(restart.pause()) => {}
            }
            match server.start_again().await {
                Ok(()) => break,
                Err(error) => view.say(S::NAME, &format!("cannot start: {error:#}")),
            }
        }
        view.say(S::NAME, "is back");
    }
}

/// The wanted port if it is free, else another one, with a message. No other system started by `up` takes it
/// while this one runs.
pub(super) fn wanted_or_other(view: &View, name: &str, wanted: u16) -> anyhow::Result<u16> {
    let port = ports::free_or_other(wanted)?;
    if port != wanted {
        view.say(name, &format!("port {wanted} is taken, using {port}"));
    }
    Ok(port)
}
