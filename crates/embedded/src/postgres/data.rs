//! The data folder: created if missing, refused if another version of Postgres created it.

use std::{fs, time::Duration};

use anyhow::{Context, bail, ensure};
use tokio::time::timeout;

use super::{Postgres, password};
use crate::{Progress, nats::tail, process::Command};

/// The required `PG_VERSION` of a data folder.
const MAJOR: &str = "18";
/// How long `initdb` may take.
const INIT_TIMEOUT: Duration = Duration::from_secs(120);

/// Creates the data folder, unless it exists.
pub(super) async fn initialize(server: &Postgres, progress: &Progress) -> anyhow::Result<()> {
    let version = server.data.join("PG_VERSION");
    if let Ok(found) = fs::read_to_string(&version) {
        ensure!(
            found.trim() == MAJOR,
            "{} was created by Postgres {}, but this is {MAJOR}: move or delete it",
            server.data.display(),
            found.trim()
        );
        return Ok(());
    }
    progress("creating the database folder");
    // Created under another name and renamed, so that an interrupted initdb leaves no half-made
    // folder.
    let unfinished = server.data.with_extension("unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    let password = password::file(server)?;
    let child = Command::new(server.binaries.join("bin/initdb"))
        .args(["-D".as_ref(), unfinished.as_os_str()])
        .args([
            "-U",
            "postgres",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ])
        // One round is enough for a random password that cannot be guessed.
        .args([
            "-c".as_ref(),
            "scram_iterations=1".as_ref(),
            "--pwfile".as_ref(),
            password.path().as_os_str(),
        ])
        .user(server.user.as_ref())
        .log_to(&server.log)?
        .spawn()?;
    match timeout(INIT_TIMEOUT, child.wait()).await {
        Ok(status) if status.success() => {}
        Ok(status) => bail!("initdb failed ({status}); {}", tail(&server.log)),
        Err(_) => bail!("initdb took longer than {} s", INIT_TIMEOUT.as_secs()),
    }
    fs::rename(&unfinished, &server.data).context("cannot rename the data folder")
}
