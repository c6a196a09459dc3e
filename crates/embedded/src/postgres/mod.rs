//! A real Postgres. The postmaster is a child of this process like any other, so that it can be
//! killed, frozen and started again; where this process is root, it runs as a user without rights.

mod binary;
mod data;
mod databases;
mod shared;
mod tls;

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{bail, ensure};
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    Progress,
    nats::tail,
    ports,
    process::{self, Child, Command, Signal},
    silent,
    unprivileged::{self, User},
};

/// How long the server may take to be ready, crash recovery included.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How often to ask whether it is ready.
const ASK_EVERY: Duration = Duration::from_millis(30);
/// How long an orderly stop may take.
const STOP_GRACE: Duration = Duration::from_secs(20);
/// How many times to try a start that fails for what passes: a port that was taken in between, or
/// the memory of a killed server that is still in use.
const TRIES: usize = 20;

/// How to start a server.
#[derive(Clone)]
pub struct Builder {
    data: Option<PathBuf>,
    port: Option<u16>,
    fsync: bool,
    sync_delay: Option<Duration>,
    certificate: Option<tls::Certificate>,
    progress: Progress,
}

/// A running Postgres. Killed when dropped, and dead when this process is.
#[derive(Debug)]
pub struct Postgres {
    binaries: PathBuf,
    data: PathBuf,
    log: PathBuf,
    port: u16,
    fsync: bool,
    sync_delay: Option<Duration>,
    tls: bool,
    user: Option<User>,
    child: Option<Child>,
    _temporary: Option<TempDir>,
}

impl Builder {
    /// Keeps the databases in this folder. Default: one that goes with the server.
    #[must_use]
    pub fn data_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.data = Some(folder.into());
        self
    }

    /// The port. Default: a free one.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Whether a commit waits for the disk. Default: yes.
    #[must_use]
    pub fn fsync(mut self, fsync: bool) -> Self {
        self.fsync = fsync;
        self
    }

    /// Makes each sync to the disk so much slower. Needs `strace`.
    #[must_use]
    pub fn slow_syncs(mut self, delay: Duration) -> Self {
        self.sync_delay = Some(delay);
        self
    }

    /// Whom to tell what takes time.
    #[must_use]
    pub fn progress(mut self, progress: Progress) -> Self {
        self.progress = progress;
        self
    }

    /// Starts the server, with its binaries fetched and its data folder made if need be, and waits
    /// until it answers.
    ///
    /// # Errors
    /// When the binaries cannot be fetched, the folder is not usable, or the server does not
    /// answer; then with the end of its log.
    pub async fn start(self) -> anyhow::Result<Postgres> {
        let user = unprivileged::user()?;
        let binaries = binary::folder(&self.progress).await?;
        let temporary = match &self.data {
            Some(_) => None,
            None => Some(tempfile::Builder::new().prefix("postgres-").tempdir()?),
        };
        let folder = match (&self.data, &temporary) {
            (Some(folder), _) => folder.clone(),
            (None, Some(temporary)) => temporary.path().to_owned(),
            (None, None) => unreachable!("one of the two is made above"),
        };
        unprivileged::folder(&folder, user.as_ref())?;
        let folder = fs::canonicalize(folder)?;
        if let Some(user) = &user {
            ensure!(
                unprivileged::can_reach(&folder),
                "Postgres runs as the user {} here and cannot reach {}: a folder above it is \
                 closed to others",
                user.name,
                folder.display()
            );
        }
        let port = self.port.map_or_else(ports::free, Ok)?;
        let mut server = Postgres {
            binaries,
            data: folder.join("data"),
            log: folder.join("postgres.log"),
            port,
            fsync: self.fsync,
            sync_delay: self.sync_delay,
            tls: self.certificate.is_some(),
            user,
            child: None,
            _temporary: temporary,
        };
        data::initialize(&server, &self.progress).await?;
        if let Some(certificate) = &self.certificate {
            certificate.write(&server)?;
        }
        for attempt in 1.. {
            match server.restart().await {
                Ok(()) => break,
                Err(error) => {
                    let taken = format!("{error:#}").contains("could not bind");
                    if !taken || self.port.is_some() || attempt >= TRIES {
                        return Err(error);
                    }
                    server.port = ports::free()?;
                }
            }
        }
        Ok(server)
    }
}

impl Postgres {
    /// How to start a server.
    #[must_use]
    pub fn builder() -> Builder {
        Builder {
            data: None,
            port: None,
            fsync: true,
            sync_delay: None,
            certificate: None,
            progress: silent(),
        }
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a database. No password: the server listens on loopback only and trusts it.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// The postmaster, to watch. `None` while it is down.
    #[must_use]
    pub fn process(&self) -> Option<&Child> {
        self.child.as_ref()
    }

    /// Kills the postmaster (SIGKILL). Its backends notice and end.
    pub async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().await;
        }
    }

    /// Stops the server in good order, ending every connection.
    pub async fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.stop(Signal::INT, STOP_GRACE).await;
        }
    }

    /// Freezes the server: the postmaster and all its backends.
    pub fn pause(&self) {
        self.signal_all(Signal::STOP);
    }

    /// Thaws the server.
    pub fn resume(&self) {
        self.signal_all(Signal::CONT);
    }

    /// Starts the server again, on the same port with the same databases. Kills it first if it
    /// runs.
    ///
    /// # Errors
    /// When it does not answer in time; then with the end of its log.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.kill().await;
        for attempt in 1.. {
            let _ = fs::remove_file(&self.log);
            let mut child = self.postmaster()?.spawn()?;
            match self.wait_until_ready(&child).await {
                Ok(()) => {
                    self.child = Some(child);
                    break;
                }
                Err(error) => {
                    child.kill().await;
                    let log = tail(&self.log);
                    // The backends of a killed postmaster take a moment to notice.
                    let passes = log.contains("shared memory block") || log.contains("lock file");
                    if !passes || attempt >= TRIES {
                        return Err(error.context(log));
                    }
                    sleep(ASK_EVERY * 4).await;
                }
            }
        }
        Ok(())
    }

    fn postmaster(&self) -> anyhow::Result<Command> {
        let settings = [
            format!("port={}", self.port),
            "listen_addresses=127.0.0.1".to_owned(),
            "unix_socket_directories=".to_owned(),
            format!("fsync={}", on(self.fsync)),
            format!("ssl={}", on(self.tls)),
            // `--replicas 50`, with sixteen connections each under load.
            "max_connections=900".to_owned(),
            "shared_buffers=128MB".to_owned(),
            "max_wal_size=2GB".to_owned(),
        ];
        let command = Command::with_slow_syncs(self.binaries.join("bin/postgres"), self.sync_delay)
            .args(["-D".as_ref(), self.data.as_os_str()])
            .args(settings.iter().flat_map(|setting| ["-c", setting]))
            // Immediate shutdown: killed outright, it would leave its backends to find out.
            .death_signal(Signal::QUIT)
            .user(self.user.as_ref());
        command.log_to(&self.log)
    }

    async fn wait_until_ready(&self, child: &Child) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Some(status) = child.exited() {
                bail!("postgres ended at its start ({status})");
            }
            let connect = PgConnection::connect(&self.url("postgres"));
            if let Ok(Ok(mut connection)) = timeout(Duration::from_secs(2), connect).await
                && sqlx::query("select 1").execute(&mut connection).await.is_ok()
            {
                let _ = connection.close().await;
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!("postgres did not answer within {} s", START_TIMEOUT.as_secs());
            }
            sleep(ASK_EVERY).await;
        }
    }

    fn signal_all(&self, signal: Signal) {
        let Some(postmaster) = &self.child else { return };
        // The postmaster first, so that it starts no backend that would be missed.
        postmaster.signal(signal);
        process::signal_children(postmaster.pid(), signal);
    }
}

fn on(yes: bool) -> &'static str {
    if yes { "on" } else { "off" }
}
