//! How `publish` and `listen` take part: under a client id of their own, until their work is done,
//! a signal comes, or `rs` is typed, which begins anew.

use std::{io::BufRead, path::Path, thread, time::Duration};

use anyhow::bail;
use clap::Args;
use common::{
    bus::{Bus, ClientId, Lease, Reason, Shutdown, Store, without_passwords},
    pod::{
        config::{NatsLogin, nats_url},
        secret::Secret,
    },
};
use futures::future::BoxFuture;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

use crate::running::{DataDir, RunningSystem};

/// How long NATS may take to answer at first.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait for the lease on the client id, or for its holder's answer.
const LEASE_WAIT: Duration = Duration::from_secs(5);
/// How long the connection's tasks may take to end.
const GRACE: Duration = Duration::from_secs(3);

/// Who takes part, and where.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "NATS")]
#[group(skip)]
pub(crate) struct Options {
    /// The client id, which no other process may use. Default: host name and process id.
    #[arg(long, value_name = "ID")]
    client_id: Option<ClientId>,

    /// The URL of a NATS server, or of several in one cluster, separated by commas. Default: the running
    /// system in the data folder, else nats://127.0.0.1:4222.
    #[arg(long, env = "NATS_URL", value_name = "URL", hide_env_values = true,
          value_parser = nats_url)]
    nats_url: Option<Secret>,

    #[command(flatten)]
    login: NatsLogin,

    #[command(flatten)]
    data: DataDir,
}

/// How a piece of work ended.
enum Ended {
    Done,
    /// `rs` was typed.
    Restart,
    /// A signal came.
    Stopped,
}

/// A connection, with the process's part that it needs.
pub(crate) struct Connection {
    pub(crate) bus: Bus,
    pub(crate) url: String,
    shutdown: Shutdown,
    reason: Reason,
}

impl Options {
    /// What is up in the data folder.
    pub(crate) fn system(&self) -> anyhow::Result<Option<RunningSystem>> {
        RunningSystem::load(&self.data.data_dir)
    }

    /// The data folder of the system that is up.
    pub(crate) fn data_dir(&self) -> &Path {
        &self.data.data_dir
    }

    /// Connects, or says that NATS is not there.
    pub(crate) async fn connect(&self) -> anyhow::Result<Connection> {
        let connection = self.open().await?;
        if timeout(CONNECT_TIMEOUT, connection.bus.connected()).await.is_err() {
            bail!(
                "NATS does not answer at {}, or turns this user away: bring everything up with `cargo run`, or name \
                 another with --nats-url",
                without_passwords(&connection.url)
            );
        }
        Ok(connection)
    }

    /// What keeps the events of the system that is up, unless another NATS is named.
    fn store(&self) -> anyhow::Result<Option<Store>> {
        let system = if self.nats_url.is_none() { self.system()? } else { None };
        Ok(system.and_then(|system| system.store?.parse().ok()))
    }

    /// Connects in the background.
    pub(crate) async fn open(&self) -> anyhow::Result<Connection> {
        let url = self.data.nats_url(self.nats_url.as_deref())?;
        let (shutdown, reason) = Shutdown::new();
        let client_id = self.client_id.clone().unwrap_or_else(ClientId::of_this_process);
        let options = common::bus::Options {
            node: "localhost".to_owned(),
            // As the services of the system have it: whoever is first makes the stream.
            store: self.store()?,
            ..self.login.options(&url, &client_id)
        };
        let bus = Bus::connect(&options, &shutdown).await?;
        Ok(Connection { bus, url, shutdown, reason })
    }
}

impl Connection {
    /// Ends the connection's tasks and the connection.
    pub(crate) async fn close(self) {
        self.end_tasks().await;
        self.bus.close().await;
    }

    async fn end_tasks(&self) {
        self.shutdown.begin();
        self.shutdown.finish(GRACE).await;
    }
}

/// Connects, holds the client id, and works, again after each `rs`. With `stay`, work that is done
/// waits for `rs` or a signal. `work` returns two futures: the work, and what tidies up after it however
/// it ends, which must have a bound of its own.
pub(crate) async fn run(
    options: &Options,
    what: &str,
    group: Option<&str>,
    stay: bool,
    work: impl Fn(Bus) -> (BoxFuture<'static, anyhow::Result<()>>, BoxFuture<'static, ()>),
) -> anyhow::Result<()> {
    let mut typed = typed_lines();
    loop {
        let mut connection = options.connect().await?;
        let Connection { bus, url, shutdown, reason } = &mut connection;
        let lease = Lease::take(bus, shutdown, what, group.as_slice()).await?;
        eprintln!("{what} {} connected to {}", bus.client_id, without_passwords(url));
        let (work, tidy_up) = work(bus.clone());
        let worked = async {
            wait_for_silent_holder(&lease).await;
            work.await?;
            if stay {
                eprintln!("Done. `rs` and Enter does it again, Ctrl-C ends.");
                std::future::pending::<()>().await;
            }
            anyhow::Ok(())
        };
        let ended = tokio::select! {
            done = worked => done.map(|()| Ended::Done),
            () = restart(&mut typed) => Ok(Ended::Restart),
            stopped = reason.wait() => stopped.map(|()| Ended::Stopped).map_err(Into::into),
        };
        tidy_up.await;
        // Only now, when nothing renews it any more.
        connection.end_tasks().await;
        lease.release().await;
        connection.bus.close().await;
        match ended? {
            Ended::Done | Ended::Stopped => return Ok(()),
            Ended::Restart => eprintln!("Restarting."),
        }
    }
}

/// A holder of the client id that is frozen or cut off keeps it until its lease ends.
async fn wait_for_silent_holder(lease: &Lease) {
    tokio::select! {
        () = lease.held() => {}
        holder = lease.waiting() => {
            eprintln!(
                "The holder of {} does not answer: waiting until its lease ends, 10 s at most",
                holder.client_id
            );
            lease.held().await;
        }
        // Without a lease then: nothing rests on it, and this user may have no right to one.
        () = sleep(LEASE_WAIT) => {}
    }
}

/// Ready when `rs` was typed. Never at the end of the input.
async fn restart(typed: &mut mpsc::Receiver<String>) {
    while let Some(line) = typed.recv().await {
        match line.trim() {
            "rs" => return,
            "" => {}
            other => eprintln!("{other:?} is no command here; `rs` restarts, Ctrl-C ends"),
        }
    }
    std::future::pending().await
}

/// The lines of the standard input. On a thread of its own, because a read from a terminal cannot
/// be interrupted and would hold up the end of the process.
fn typed_lines() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(16);
    thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}
