//! How to start a nats-server: its stream folder, its ports, and its other settings.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;

use super::{NatsServer, USER, binary};
use crate::{Progress, ports, private, silent};

/// How many ports to try if other processes take them first.
const TRIES: usize = 5;

/// How to start a server.
#[derive(Clone)]
pub struct Builder {
    store: Option<PathBuf>,
    client_port: Option<u16>,
    monitor_port: Option<u16>,
    sync_always: bool,
    settings: String,
    password: Option<String>,
    environment: Vec<(String, String)>,
    sync_delay: Option<Duration>,
    disk: Option<u64>,
    progress: Progress,
}

impl Builder {
    pub(super) fn new() -> Self {
        Self {
            store: None,
            client_port: None,
            monitor_port: None,
            sync_always: true,
            settings: String::new(),
            password: None,
            environment: Vec::new(),
            sync_delay: None,
            disk: None,
            progress: silent(),
        }
    }

    /// Keeps streams in this folder. Default: one that is deleted with the server.
    #[must_use]
    pub fn store_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.store = Some(folder.into());
        self
    }

    /// The port for clients. Default: a free one.
    #[must_use]
    pub fn client_port(mut self, port: u16) -> Self {
        self.client_port = Some(port);
        self
    }

    /// The port for monitoring. Default: a free one.
    #[must_use]
    pub fn monitor_port(mut self, port: u16) -> Self {
        self.monitor_port = Some(port);
        self
    }

    /// Whether every write is synced to disk before it is confirmed. Default: yes.
    #[must_use]
    pub fn sync_always(mut self, always: bool) -> Self {
        self.sync_always = always;
        self
    }

    /// Adds settings in the server's own configuration language, such as users and their
    /// permissions. Included files are looked up in [`Self::store_dir`].
    #[must_use]
    pub fn settings(mut self, settings: impl Into<String>) -> Self {
        self.settings = settings.into();
        self
    }

    /// Makes the server require this run's random password, which [`NatsServer::url`] contains.
    /// Default: every process on this machine has full access.
    #[must_use]
    pub fn with_password(mut self) -> Self {
        self.password = Some(private::password());
        self
    }

    /// Sets an environment variable that settings refer to.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Slows down each sync to disk by this delay. Needs `strace`.
    #[must_use]
    pub fn slow_syncs(mut self, delay: Duration) -> Self {
        self.sync_delay = Some(delay);
        self
    }

    /// Keeps streams on an in-memory disk of this many bytes, which is deleted with the process.
    /// Needs [`small_disk::is_possible`](crate::small_disk::is_possible).
    #[must_use]
    pub fn small_disk(mut self, bytes: u64) -> Self {
        self.disk = Some(bytes);
        self
    }

    /// Reports slow steps.
    #[must_use]
    pub fn progress(mut self, progress: Progress) -> Self {
        self.progress = progress;
        self
    }

    /// Starts the server, and waits until JetStream is ready.
    ///
    /// # Errors
    /// If there is no binary and none can be fetched. If the server does not become ready, the
    /// error contains the end of its log.
    pub async fn start(self) -> anyhow::Result<NatsServer> {
        let binary = binary::find(&self.progress).await?;
        let temporary = match &self.store {
            Some(_) => None,
            None => Some(tempfile::Builder::new().prefix("nats-").tempdir()?),
        };
        let folder = match (&self.store, &temporary) {
            (Some(store), _) => store.clone(),
            (None, Some(temporary)) => temporary.path().to_owned(),
            (None, None) => unreachable!("one of the two is made above"),
        };
        private::folder(&folder)?;
        let folder = fs::canonicalize(folder)?;
        for attempt in 1.. {
            let client_port = self.client_port.map_or_else(ports::free, Ok)?;
            let monitor_port = self.monitor_port.map_or_else(ports::free, Ok)?;
            self.write_config(&folder, client_port, monitor_port)?;
            let (binary, folder) = (binary.clone(), folder.clone());
            let mut server = NatsServer {
                binary,
                folder,
                client_port,
                monitor_port,
                environment: self.environment.clone(),
                password: self.password.clone(),
                sync_delay: self.sync_delay,
                disk: self.disk,
                child: None,
                _temporary: None,
            };
            match server.restart().await {
                Ok(()) => {
                    server._temporary = temporary;
                    return Ok(server);
                }
                Err(error) => {
                    let taken = format!("{error:#}").contains("address already in use");
                    if !taken || attempt >= TRIES {
                        return Err(error);
                    }
                }
            }
        }
        unreachable!("the loop ends by a return")
    }

    fn write_config(&self, folder: &Path, client: u16, monitor: u16) -> anyhow::Result<()> {
        // Not in a URL or an argument: only this user may read the file, and `ps` does not show it.
        let authorization = self.password.as_ref().map_or_else(String::new, |password| {
            format!("authorization {{ user: \"{USER}\", password: \"{password}\" }}\n")
        });
        let sync = if self.sync_always { "always" } else { "2m" };
        let config = format!(
            r#"listen: "127.0.0.1:{client}"
http: "127.0.0.1:{monitor}"
server_name: "embedded"
# A dead client is noticed within 12 s, not within minutes.
ping_interval: "3s"
ping_max: 2
jetstream {{
  store_dir: "{}"
  # A confirmed message is on the disk.
  sync_interval: {sync}
}}
{authorization}{}
"#,
            folder.display(),
            self.settings,
        );
        let path = folder.join("nats-server.conf");
        private::write(&path, config.as_bytes()).context("cannot write the configuration")
    }
}
