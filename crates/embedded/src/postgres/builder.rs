//! How to start a Postgres: its data folder, its port, and how it writes to disk.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::ensure;

use super::{Postgres, TRIES, binary, data, password, tls::Certificate};
use crate::{Progress, ports, silent, unprivileged};

/// How to start a server.
#[derive(Clone)]
pub struct Builder {
    data: Option<PathBuf>,
    port: Option<u16>,
    fsync: bool,
    sync_delay: Option<Duration>,
    pub(super) certificate: Option<Certificate>,
    progress: Progress,
}

impl Builder {
    pub(super) fn new() -> Self {
        Self {
            data: None,
            port: None,
            fsync: true,
            sync_delay: None,
            certificate: None,
            progress: silent(),
        }
    }

    /// Keeps the databases in this folder. Default: one that is deleted with the server.
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

    /// Slows down each sync to disk by this delay. Needs `strace`.
    #[must_use]
    pub fn slow_syncs(mut self, delay: Duration) -> Self {
        self.sync_delay = Some(delay);
        self
    }

    /// Reports slow steps.
    #[must_use]
    pub fn progress(mut self, progress: Progress) -> Self {
        self.progress = progress;
        self
    }

    /// Starts the server, fetches its binaries and creates its data folder if necessary, and waits
    /// until it answers.
    ///
    /// # Errors
    /// If the binaries cannot be fetched, or the folder is not usable. If the server does not
    /// answer, the error contains the end of its log.
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
            password: password::of(&folder)?,
            fsync: self.fsync,
            sync_delay: self.sync_delay,
            tls: self.certificate.is_some(),
            user,
            child: None,
            temporary,
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
        password::required(&server).await?;
        Ok(server)
    }
}
