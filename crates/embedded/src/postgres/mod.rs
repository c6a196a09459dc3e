//! A real Postgres. The postmaster is an ordinary child of this process, so it can be killed,
//! frozen and restarted. If this process is root, it runs as an unprivileged user.

mod binary;
mod builder;
mod data;
mod databases;
mod password;
mod shared;
mod shared_memory;
mod tls;

pub use builder::Builder;
pub use databases::create_database;

use std::{fmt, fs, path::PathBuf, time::Duration};

use anyhow::bail;
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    nats::tail,
    process::{self, Child, Command, Signal},
    unprivileged::User,
};

/// How long the server may take to become ready, crash recovery included.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How often to check whether it is ready.
const ASK_EVERY: Duration = Duration::from_millis(30);
/// How long a graceful stop may take.
const STOP_GRACE: Duration = Duration::from_secs(20);
/// How often to retry a start that fails for a temporary reason: a port taken in between, or the
/// shared memory of a killed server that is still in use.
const TRIES: usize = 20;

/// A running Postgres. Killed when dropped or when this process dies.
pub struct Postgres {
    binaries: PathBuf,
    data: PathBuf,
    log: PathBuf,
    port: u16,
    password: String,
    fsync: bool,
    sync_delay: Option<Duration>,
    tls: bool,
    user: Option<User>,
    child: Option<Child>,
    temporary: Option<TempDir>,
}

/// A server on a folder of its own leaves nothing behind, even if it was killed.
impl Drop for Postgres {
    fn drop(&mut self) {
        self.child = None;
        if self.temporary.is_some() {
            shared_memory::remove(&self.data);
        }
    }
}

/// Omits the password.
impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { data, port, child, .. } = self;
        f.debug_tuple("Postgres").field(data).field(port).field(child).finish()
    }
}

impl Postgres {
    /// How to start a server.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the URL of a database, with the password that the server requires.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }

    /// Returns the postmaster, to watch. `None` while it is down.
    #[must_use]
    pub fn process(&self) -> Option<&Child> {
        self.child.as_ref()
    }

    /// The id of the server's System V shared memory segment, as `ipcs -m` lists it. `None` while it is stopped.
    #[must_use]
    pub fn shared_memory(&self) -> Option<String> {
        shared_memory::segment(&self.data)
    }

    /// Kills the postmaster (SIGKILL). Its backends notice and end.
    pub async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().await;
        }
    }

    /// Stops the server gracefully, ending every connection.
    pub async fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.stop(Signal::INT, STOP_GRACE).await;
        }
    }

    /// Freezes the server: the postmaster and all its backends.
    pub fn pause(&self) {
        self.signal_all(Signal::STOP);
    }

    /// Resumes the server.
    pub fn resume(&self) {
        self.signal_all(Signal::CONT);
    }

    /// Restarts the server, on the same port with the same databases. Kills it first if it runs.
    ///
    /// # Errors
    /// If it does not answer in time; the error contains the end of its log.
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
            // Enough for `--replicas 50`, with sixteen connections each under load.
            "max_connections=900".to_owned(),
            "shared_buffers=128MB".to_owned(),
            // In the data folder, and deleted with it, even if the server is killed.
            "dynamic_shared_memory_type=mmap".to_owned(),
            "max_wal_size=2GB".to_owned(),
        ];
        let command = Command::with_slow_syncs(self.binaries.join("bin/postgres"), self.sync_delay)
            .args(["-D".as_ref(), self.data.as_os_str()])
            .args(settings.iter().flat_map(|setting| ["-c", setting]))
            // Immediate shutdown. With SIGKILL, its backends would have to notice the death
            // themselves.
            .death_signal(Signal::QUIT)
            .user(self.user.as_ref());
        command.log_to(&self.log)
    }

    async fn wait_until_ready(&self, child: &Child) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Some(status) = child.exited() {
                bail!("postgres exited during startup ({status})");
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
