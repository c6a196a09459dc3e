//! NATS as in production: an account for each service, and users with keys, from the manifests and the
//! script that creates the keys.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process,
    sync::Arc,
};

use async_nats::{Client, ConnectOptions};
use embedded::{NatsServer, nats};
use tempfile::TempDir;

/// A folder with a key for each user and the server's configuration.
#[derive(Clone)]
pub(crate) struct Identities {
    folder: Arc<TempDir>,
    public: BTreeMap<String, String>,
}

/// A file of the manifests.
pub(crate) fn k8s(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../infra/k8s").join(file)
}

impl Identities {
    pub(crate) fn make() -> Self {
        Self::of("tickets orders")
    }

    /// Keys of these services.
    pub(crate) fn of(services: &str) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let script = folder.path().join("make-secrets");
        fs::copy(k8s("overlays/production/make-secrets"), &script).unwrap();
        let made = process::Command::new("sh")
            .arg(&script)
            .env("TICKETING", env!("CARGO_BIN_EXE_ticketing"))
            .env("SERVICES", services)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let public = fs::read_to_string(folder.path().join("secrets/nats-public-keys.env"));
        let public = public.unwrap();
        let public = public.lines().map(|line| line.split_once('=').unwrap());
        let public = public.map(|(name, key)| (name.to_owned(), key.to_owned())).collect();
        Self { folder, public }
    }

    /// The folder where the server stores its streams.
    pub(crate) fn store(&self) -> PathBuf {
        self.folder.path().join("nats")
    }

    /// A server with the accounts, users and rights of the manifests.
    pub(crate) fn server(&self) -> nats::Builder {
        self.server_with("base/nats")
    }

    /// The same, except that files in this folder replace those of the same name.
    pub(crate) fn server_with(&self, folder: &str) -> nats::Builder {
        let store = self.store();
        fs::create_dir_all(&store).unwrap();
        let files = ["base/nats", folder].map(|folder| fs::read_dir(k8s(folder)).unwrap());
        for file in files.into_iter().flatten() {
            let file = file.unwrap().path();
            let name = file.file_name().unwrap();
            if name.to_string_lossy().starts_with("may-") || name == "users.conf" {
                fs::copy(&file, store.join(name)).unwrap();
            }
        }
        let server = NatsServer::builder().store_dir(store).settings("include users.conf");
        let server = server.env("ACCOUNT_STORE", "64MiB").env("ACCOUNT_MEMORY", "16MiB");
        self.public.iter().fold(server, |server, (name, key)| server.env(name, key))
    }

    /// The file with a user's private key.
    pub(crate) fn seed_file(&self, user: &str) -> PathBuf {
        self.folder.path().join(format!("secrets/{user}.seed"))
    }

    /// The connect options of a user.
    pub(crate) fn user(&self, user: &str) -> ConnectOptions {
        let seed = fs::read_to_string(self.seed_file(user)).unwrap();
        ConnectOptions::with_nkey(seed.trim().to_owned())
            .custom_inbox_prefix(format!("_INBOX.{user}"))
    }

    /// A connection with full rights in the account that holds this stream.
    pub(crate) async fn operator(&self, nats: &NatsServer, stream: &str) -> Client {
        let user = format!("{}-operator", stream.to_lowercase());
        self.user(&user).connect(nats.url()).await.unwrap()
    }
}

/// The stream that a service listens to in the other account.
pub(crate) fn imported(service: &str) -> &'static str {
    if service == "tickets" { "ORDERS" } else { "TICKETS" }
}
