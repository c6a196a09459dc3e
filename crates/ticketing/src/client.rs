//! How `publish` and `listen` connect to NATS: each under its own client id, until its work is done or
//! a signal arrives. Typing `rs` starts over.

use std::{io::BufRead, path::Path, thread, time::Duration};

use anyhow::bail;
use clap::Args;
use common::{
    bus::{Bus, ClientId, Lease, Shutdown, StopReason, Store, lease, without_passwords},
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

/// How long NATS may take to accept the first connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait for the lease on the client id, or for its holder to answer.
const LEASE_WAIT: Duration = Duration::from_secs(5);
/// How long the connection's tasks may take to finish.
const GRACE: Duration = Duration::from_secs(3);

/// The client id, and the NATS server to use.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "NATS")]
#[group(skip)]
pub(crate) struct Options {
    /// The client id; no other process may use the same one. Default: host name and process id.
    #[arg(long, value_name = "ID")]
    client_id: Option<ClientId>,

    /// The URL of a NATS server, or of several in one cluster, separated by commas. Default: that of the system
    /// running from the data folder, else nats://127.0.0.1:4222.
    #[arg(long, env = "NATS_URL", value_name = "URL", hide_env_values = true,
          value_parser = nats_url)]
    nats_url: Option<Secret>,

    #[command(flatten)]
    login: NatsLogin,

    #[command(flatten)]
    data: DataDir,
}

/// How the work ended.
enum Ended {
    Done,
    /// `rs` was typed.
    Restart,
    /// A signal arrived.
    Stopped,
}

/// A connection, and how to shut it down.
pub(crate) struct Connection {
    pub(crate) bus: Bus,
    pub(crate) url: String,
    shutdown: Shutdown,
    reason: StopReason,
}

impl Options {
    /// The system running from the data folder, if any.
    pub(crate) fn system(&self) -> anyhow::Result<Option<RunningSystem>> {
        RunningSystem::load(&self.data.data_dir)
    }

    /// The data folder.
    pub(crate) fn data_dir(&self) -> &Path {
        &self.data.data_dir
    }

    /// Connects.
    ///
    /// # Errors
    /// NATS does not answer in time, or rejects the user.
    pub(crate) async fn connect(&self) -> anyhow::Result<Connection> {
        let connection = self.open().await?;
        if timeout(CONNECT_TIMEOUT, connection.bus.connected()).await.is_err() {
            bail!(
                "NATS does not answer at {}, or rejects this user: start everything with `cargo run`, or pass another \
                URL with --nats-url",
                without_passwords(&connection.url)
            );
        }
        Ok(connection)
    }

    /// The store of the running system, unless another NATS is given.
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
            // The same as the services use: whichever process comes first creates the stream.
            store: self.store()?,
            ..self.login.options(&url, &client_id)
        };
        let bus = Bus::connect(&options, &shutdown).await?;
        Ok(Connection { bus, url, shutdown, reason })
    }
}

impl Connection {
    /// Stops the connection's tasks, then closes it.
    pub(crate) async fn close(self) {
        self.end_tasks().await;
        self.bus.close().await;
    }

    async fn end_tasks(&self) {
        self.shutdown.begin();
        self.shutdown.finish(GRACE).await;
    }
}

/// Connects, takes the lease on the client id, and works; starts over after each `rs`. With `stay`, finished
/// work waits for `rs` or a signal. `work` returns two futures: the work, and the cleanup that runs however
/// it ends. The cleanup must have its own timeout.
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
                eprintln!("Done. Type `rs` and Enter to run it again, or press Ctrl-C to quit.");
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
        // Released only now that no task renews it.
        connection.end_tasks().await;
        lease.release().await;
        connection.bus.close().await;
        match ended? {
            Ended::Done | Ended::Stopped => return Ok(()),
            Ended::Restart => eprintln!("Restarting."),
        }
    }
}

/// A holder that is frozen or disconnected keeps the client id until its lease expires.
async fn wait_for_silent_holder(lease: &Lease) {
    tokio::select! {
        () = lease.held() => {}
        holder = lease.waiting() => {
            eprintln!(
                "The holder of {} does not answer: waiting up to {} s for its lease to expire",
                holder.client_id,
                lease::MAX_AGE.as_secs()
            );
            lease.held().await;
        }
        // Goes on without a lease: nothing depends on it, and this user may not be allowed to take one.
        () = sleep(LEASE_WAIT) => {}
    }
}

/// Resolves when `rs` is typed; never at the end of the input.
async fn restart(typed: &mut mpsc::Receiver<String>) {
    while let Some(line) = typed.recv().await {
        match line.trim() {
            "rs" => return,
            "" => {}
            other => eprintln!(
                "unknown command {other:?}: type `rs` to restart, or press Ctrl-C to quit"
            ),
        }
    }
    std::future::pending().await
}

/// The lines of standard input, read on a separate thread: a read from a terminal cannot be
/// cancelled and would keep the process from exiting.
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
