//! A small in-memory disk of a single process, which can be filled up.
//!
//! It is mounted in the process's own mount namespace, which an ordinary user may create if the
//! kernel allows it. It disappears with the process.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Mounts the disk, then executes the program. Arguments: folder, size in bytes, program, its
/// arguments.
const MOUNT: &str = r#"folder=$1 size=$2; shift 2
mount -t tmpfs -o "size=$size" tmpfs "$folder" && exec "$@""#;

/// Returns the command prefix that gives a program a disk of this many bytes at a folder.
pub(crate) fn prefix(folder: &Path, bytes: u64) -> Vec<OsString> {
    let mut words: Vec<OsString> = unshare().into_iter().map(OsString::from).collect();
    words.extend(["sh", "-c", MOUNT, "sh"].map(OsString::from));
    words.extend([folder.into(), bytes.to_string().into()]);
    words
}

/// Root needs no user namespace, and may be in a container that has none.
fn unshare() -> Vec<&'static str> {
    if rustix::process::geteuid().is_root() {
        vec!["unshare", "--mount"]
    } else {
        vec!["unshare", "--user", "--map-root-user", "--mount"]
    }
}

/// Returns whether a process can have its own disk here. Linux allows it, unless a container or the
/// distribution forbids namespaces.
#[must_use]
pub fn is_possible() -> bool {
    let Ok(folder) = tempfile::tempdir() else { return false };
    let words = prefix(folder.path(), 1 << 20);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).arg("true").stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The small disk of a running process, as seen from outside.
#[derive(Debug)]
pub struct SmallDisk {
    folder: PathBuf,
}

impl SmallDisk {
    pub(crate) fn of(pid: u32, folder: &Path) -> Self {
        let root = Path::new("/proc").join(pid.to_string()).join("root");
        Self { folder: root.join(folder.strip_prefix("/").unwrap_or(folder)) }
    }

    fn filler(&self) -> PathBuf {
        self.folder.join("filler")
    }

    /// Writes until the disk is full.
    ///
    /// # Errors
    /// If a write fails for another reason.
    pub fn fill(&self) -> io::Result<()> {
        let mut file = File::options().create(true).append(true).open(self.filler())?;
        let mut size = 1 << 20;
        while size > 0 {
            match file.write(&vec![0; size]) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => size /= 2,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Frees what [`Self::fill`] wrote.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn make_room(&self) -> io::Result<()> {
        fs::remove_file(self.filler())
    }
}
