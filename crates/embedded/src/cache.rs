//! The cache of fetched servers. Each entry is created once and atomically, even if several
//! processes try at once.

use std::{
    env,
    fs::{self, File},
    future::Future,
    path::PathBuf,
};

use anyhow::Context;

/// Returns the folder of everything fetched: `TICKETING_CACHE`, else `/var/cache/ticketing` for
/// root (a server's user could not enter root's home), else the user's cache folder.
fn folder() -> anyhow::Result<PathBuf> {
    if let Some(folder) = env::var_os("TICKETING_CACHE") {
        return Ok(folder.into());
    }
    if rustix::process::geteuid().is_root() {
        return Ok("/var/cache/ticketing".into());
    }
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cache")));
    Ok(cache
        .context("neither HOME nor XDG_CACHE_HOME is set; set TICKETING_CACHE")?
        .join("ticketing"))
}

/// Returns the folder `name` of the cache, filled by `fill` if it does not exist yet. If several
/// processes ask at once, one fills it, and the others wait.
pub(crate) async fn filled<F>(
    name: &str,
    fill: impl FnOnce(PathBuf) -> F,
) -> anyhow::Result<PathBuf>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let cache = folder()?;
    let wanted = cache.join(name);
    if wanted.is_dir() {
        return Ok(wanted);
    }
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let lock_path = cache.join(format!("{name}.lock"));
    let lock = File::create(&lock_path)
        .with_context(|| format!("cannot write {}", lock_path.display()))?;
    // Held until the file is closed, which also happens when the process is killed.
    let _lock = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock)).await??;
    if wanted.is_dir() {
        return Ok(wanted);
    }
    let unfinished = cache.join(format!("{name}.unfinished"));
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    fill(unfinished.clone()).await.with_context(|| {
        format!(
            "cannot fetch {name} into {}; without a network, copy {name} there from the cache of another \
             machine (TICKETING_CACHE names the cache)",
            cache.display()
        )
    })?;
    fs::rename(&unfinished, &wanted)
        .with_context(|| format!("cannot rename {}", unfinished.display()))?;
    Ok(wanted)
}
