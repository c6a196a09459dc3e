//! A certificate of the server's own, for clients that ask for TLS.

use std::{
    fs,
    os::unix::fs::{OpenOptionsExt, chown},
};

use anyhow::Context;

use super::{Builder, Postgres};

/// What a server shows to its clients, as PEM.
#[derive(Clone)]
pub(super) struct Certificate {
    certificate: String,
    key: String,
}

impl Builder {
    /// Offers TLS with this certificate and its private key, both as PEM. Clients that do not ask
    /// for TLS are served without, as by default.
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
    /// Writes both where a server with `ssl=on` looks for them: beside its data, the key readable by
    /// the server alone, which it insists on.
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
