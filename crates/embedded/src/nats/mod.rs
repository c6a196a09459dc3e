//! A real nats-server with JetStream on disk.

mod binary;
mod builder;

pub use builder::Builder;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::bail;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::{
    process::{Child, Command, Signal},
    small_disk::{self, SmallDisk},
};

/// The user name, if the server requires a password.
const USER: &str = "local";
/// How long the server may take to become ready.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// How often to check whether it is ready.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// How long a graceful stop may take.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// A running nats-server. Killed when dropped or when this process dies.
pub struct NatsServer {
    binary: PathBuf,
    folder: PathBuf,
    client_port: u16,
    monitor_port: u16,
    environment: Vec<(String, String)>,
    password: Option<String>,
    sync_delay: Option<Duration>,
    disk: Option<u64>,
    child: Option<Child>,
    _temporary: Option<TempDir>,
}

/// Omits the password.
impl fmt::Debug for NatsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { folder, client_port, child, .. } = self;
        f.debug_tuple("NatsServer").field(folder).field(client_port).field(child).finish()
    }
}

impl NatsServer {
    /// How to start a server.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// The port for clients.
    #[must_use]
    pub fn client_port(&self) -> u16 {
        self.client_port
    }

    /// The port for monitoring.
    #[must_use]
    pub fn monitor_port(&self) -> u16 {
        self.monitor_port
    }

    /// Returns the URL for clients, with the password if there is one.
    #[must_use]
    pub fn url(&self) -> String {
        match &self.password {
            Some(password) => format!("nats://{USER}:{password}@127.0.0.1:{}", self.client_port),
            None => format!("nats://127.0.0.1:{}", self.client_port),
        }
    }

    /// The URL for monitoring.
    #[must_use]
    pub fn monitor_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.monitor_port)
    }

    /// Returns what the server has logged since its last start.
    ///
    /// # Errors
    /// If its log cannot be read.
    pub fn log(&self) -> std::io::Result<String> {
        fs::read_to_string(self.folder.join("nats-server.log"))
    }

    /// Returns the server's process, to pause or watch. `None` while it is down.
    #[must_use]
    pub fn process(&self) -> Option<&Child> {
        self.child.as_ref()
    }

    /// Returns its [small disk](Builder::small_disk), while it runs.
    #[must_use]
    pub fn small_disk(&self) -> Option<SmallDisk> {
        let child = self.child.as_ref()?;
        self.disk.map(|_| SmallDisk::of(child.pid(), &self.streams()))
    }

    fn streams(&self) -> PathBuf {
        self.folder.join("jetstream")
    }

    /// Kills the server (SIGKILL). Its streams stay on disk.
    pub async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().await;
        }
    }

    /// Stops the server gracefully.
    pub async fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.stop(Signal::TERM, STOP_GRACE).await;
        }
    }

    /// Restarts the server, on the same ports with the same streams. Kills it first if it runs.
    ///
    /// # Errors
    /// If it does not become ready; the error contains the end of its log.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.kill().await;
        let log = self.folder.join("nats-server.log");
        // If it fails, only this run's log is of interest.
        let _ = fs::remove_file(&log);
        let config = ["--config".into(), self.folder.join("nats-server.conf").into_os_string()];
        let mut command = if let Some(bytes) = self.disk {
            fs::create_dir_all(self.streams())?;
            let words = small_disk::prefix(&self.streams(), bytes);
            Command::new(&words[0]).args(&words[1..]).args([&self.binary])
        } else {
            Command::with_slow_syncs(&self.binary, self.sync_delay)
        };
        command = command.args(config);
        for (name, value) in &self.environment {
            command = command.env(name, value);
        }
        let child = command.log_to(&log)?.spawn()?;
        let ready = wait_until_ready(self.monitor_port, &child).await;
        self.child = Some(child);
        if let Err(error) = ready {
            self.kill().await;
            return Err(error.context(tail(&log)));
        }
        Ok(())
    }

    /// Kills the server, deletes all its streams, and restarts it on the same ports.
    ///
    /// # Errors
    /// As [`Self::restart`].
    pub async fn wipe_and_restart(&mut self) -> anyhow::Result<()> {
        self.kill().await;
        let streams = self.streams();
        if streams.exists() {
            fs::remove_dir_all(&streams)?;
        }
        self.restart().await
    }
}

async fn wait_until_ready(monitor_port: u16, child: &Child) -> anyhow::Result<()> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        if let Some(status) = child.exited() {
            bail!("nats-server exited during startup ({status})");
        }
        if let Ok(Ok(true)) = timeout(Duration::from_secs(1), is_healthy(monitor_port)).await {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("nats-server was not ready after {} s", START_TIMEOUT.as_secs());
        }
        sleep(ASK_EVERY).await;
    }
}

async fn is_healthy(monitor_port: u16) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", monitor_port)).await?;
    stream
        .write_all(b"GET /healthz?js-server-only=true HTTP/1.0\r\nHost: localhost\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    stream.take(4096).read_to_end(&mut answer).await?;
    Ok(answer.starts_with(b"HTTP/1.0 200") || answer.starts_with(b"HTTP/1.1 200"))
}

/// Returns the end of a log, for an error message.
pub(crate) fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(15)..].join("\n");
    format!("the server's log ends:\n{last}\n")
}
