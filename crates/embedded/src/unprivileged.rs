//! The user that a server runs as if this process is root: Postgres refuses to run as root.

use std::{
    fs,
    os::unix::fs::{MetadataExt, chown},
    path::Path,
};

use anyhow::{Context, bail};

use crate::private;

/// An unprivileged user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Returns the user to switch to: `postgres` if it exists, else `nobody`. `None` if this process is
/// not root; servers then run as its own user.
pub(crate) fn user() -> anyhow::Result<Option<User>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let passwd = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    for name in ["postgres", "nobody"] {
        let line = passwd.lines().find(|line| line.split(':').next() == Some(name));
        let fields: Vec<&str> = line.unwrap_or_default().split(':').collect();
        if let [_, _, uid, gid, ..] = fields[..] {
            return Ok(Some(User { name: name.to_owned(), uid: uid.parse()?, gid: gid.parse()? }));
        }
    }
    bail!("running as root, and there is neither a user `postgres` nor `nobody` to run Postgres as")
}

/// Creates a folder that the server's user owns and no other user may enter.
pub(crate) fn folder(path: &Path, user: Option<&User>) -> anyhow::Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
    private::folder(path)?;
    if let Some(user) = user {
        chown(path, Some(user.uid), Some(user.gid))
            .with_context(|| format!("cannot give {} to {}", path.display(), user.name))?;
    }
    Ok(())
}

/// Returns whether the servers' user can reach a path. If root switches to another user, every
/// folder above must be open to all, or owned by that user.
#[must_use]
pub fn can_reach(path: &Path) -> bool {
    let Ok(Some(user)) = user() else { return true };
    let Ok(path) = std::path::absolute(path) else { return false };
    path.ancestors()
        .skip(1)
        .filter_map(|folder| fs::metadata(folder).ok())
        .all(|folder| folder.mode() & 0o001 != 0 || folder.uid() == user.uid)
}
