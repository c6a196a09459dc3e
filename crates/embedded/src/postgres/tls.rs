//! The server's certificate, for clients that use TLS.

use std::{
    fs,
    os::unix::fs::{OpenOptionsExt, chown},
};

use anyhow::Context;

use super::{Builder, Postgres};

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub(super) struct Certificate {
    certificate: String,
    key: String,
}

impl Builder {
    /// Offers TLS with this certificate and its private key, both as PEM. Clients without TLS are
    /// still served, as by default.
    #[must_use]
    pub fn certificate(
        mut self,
        certificate: impl Into<String>,
        private_key: impl Into<String>,
    ) -> Self {
        self.certificate =
            Some(Certificate { certificate: certificate.into(), key: private_key.into() });
        self
    }
}

impl Certificate {
    /// Writes both where a server with `ssl=on` expects them: in its data folder. Only the server
    /// may read the key, which Postgres requires.
    pub(super) fn write(&self, server: &Postgres) -> anyhow::Result<()> {
        for (name, pem) in [("server.crt", &self.certificate), ("server.key", &self.key)] {
            let path = server.data.join(name);
            fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&path)
                .and_then(|mut file| std::io::Write::write_all(&mut file, pem.as_bytes()))
                .with_context(|| format!("cannot write {}", path.display()))?;
            if let Some(user) = &server.user {
                chown(&path, Some(user.uid), Some(user.gid))?;
            }
        }
        Ok(())
    }
}
