//! What belongs to this user alone: folders and files that nobody else may read, and passwords.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io::{ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use anyhow::Context;

/// A password that nobody guesses: 128 random bits in hexadecimal digits, which every URL and every
/// configuration takes as they are.
#[must_use]
pub fn password() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// Makes a folder that nobody else may enter, or closes one that is there.
///
/// # Errors
/// When it cannot be made, or is another user's.
pub fn folder(path: &Path) -> anyhow::Result<()> {
    closed(path, 0o700)
}

/// Makes a folder as [`folder`] does, in which servers keep theirs. Where this process is root, Postgres
/// runs as another user and has to get through: then others may pass, but see nothing.
///
/// # Errors
/// As [`folder`].
pub fn folder_of_servers(path: &Path) -> anyhow::Result<()> {
    closed(path, if rustix::process::geteuid().is_root() { 0o711 } else { 0o700 })
}

fn closed(path: &Path, mode: u32) -> anyhow::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(mode).create(path);
    made.with_context(|| format!("cannot make {}", path.display()))?;
    let closed = fs::set_permissions(path, Permissions::from_mode(mode));
    closed.with_context(|| format!("cannot close {} to others", path.display()))
}

/// Writes a file that nobody else may read, at once and whole.
///
/// # Errors
/// When it cannot be written.
pub fn write(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".unfinished");
    let unfinished = path.with_file_name(name);
    // One that was left may be open to others.
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
