//! Folders and files that only this user may read, and passwords.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io::{ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use anyhow::Context;

/// Returns a password that cannot be guessed: 128 random bits as hexadecimal digits, which need no
/// escaping in URLs or configurations.
#[must_use]
pub fn password() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// Creates a folder that only this user may enter, or restricts an existing one.
///
/// # Errors
/// If it cannot be created, or belongs to another user.
pub fn folder(path: &Path) -> anyhow::Result<()> {
    closed(path, 0o700)
}

/// Creates a folder like [`folder`], for servers' folders. If this process is root, Postgres runs
/// as another user and must pass through: others may then traverse the folder but not list it.
///
/// # Errors
/// Same as [`folder`].
pub fn folder_of_servers(path: &Path) -> anyhow::Result<()> {
    closed(path, if rustix::process::geteuid().is_root() { 0o711 } else { 0o700 })
}

fn closed(path: &Path, mode: u32) -> anyhow::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(mode).create(path);
    made.with_context(|| format!("cannot make {}", path.display()))?;
    let closed = fs::set_permissions(path, Permissions::from_mode(mode));
    closed.with_context(|| format!("cannot close {} to others", path.display()))
}

/// Writes a file that only this user may read, atomically.
///
/// # Errors
/// If it cannot be written.
pub fn write(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".unfinished");
    let unfinished = path.with_file_name(name);
    // A leftover file may be readable by others.
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(cannot);
        }
        _ => {}
    }
    let file = File::options().write(true).create_new(true).mode(0o600).open(&unfinished);
    file.and_then(|mut file| file.write_all(content)).with_context(cannot)?;
    fs::rename(unfinished, path).with_context(cannot)
}
