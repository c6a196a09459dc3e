//! The data folder: used by one `up` at a time.

use std::{
    fs::{self, File, TryLockError},
    io::{Read, Seek, Write},
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context, bail};
use embedded::private;
use uuid::Uuid;

/// Where Postgres stores its files if its user cannot enter the data folder. This happens only if root runs
/// `up`.
const ELSEWHERE: &str = "/var/lib/ticketing";

/// The data folder, locked by this process until it exits.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) root: PathBuf,
    pub(super) postgres: PathBuf,
    _lock: File,
}

impl Folder {
    /// Creates the folder if necessary, and locks it.
    pub(super) fn open(root: &Path) -> anyhow::Result<Self> {
        let cannot = || format!("cannot use the data folder {}", root.display());
        private::folder_of_servers(root).with_context(cannot)?;
        let root = fs::canonicalize(root).with_context(cannot)?;
        private::folder(&root.join("logs"))?;
        let lock = lock(&root)?;
        let inside = root.join("postgres");
        let postgres = if embedded::unprivileged_can_reach(&inside.join("data")) {
            inside
        } else {
            let name = Uuid::new_v5(&Uuid::NAMESPACE_URL, root.as_os_str().as_encoded_bytes());
            Path::new(ELSEWHERE).join(name.simple().to_string())
        };
        Ok(Self { root, postgres, _lock: lock })
    }

    /// Deletes the data of earlier runs.
    pub(super) fn clear(&self) -> anyhow::Result<()> {
        for folder in [&self.nats(), &self.postgres] {
            if folder.exists() {
                fs::remove_dir_all(folder)
                    .with_context(|| format!("cannot delete {}", folder.display()))?;
            }
        }
        Ok(())
    }

    pub(super) fn nats(&self) -> PathBuf {
        self.root.join("nats")
    }

    /// The log file of a process.
    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(format!("{name}.log"))
    }

    /// Writes a process's id, for people who want to kill it: `kill -9 $(cat …/orders-2.pid)`.
    pub(super) fn write_pid(&self, name: &str, pid: u32) {
        // A convenience; nothing depends on it.
        let _ = fs::write(self.pid_file(name), format!("{pid}\n"));
    }

    pub(super) fn remove_pid(&self, name: &str) {
        let _ = fs::remove_file(self.pid_file(name));
    }

    /// Removes all pid files, including those of a run that was killed.
    pub(super) fn remove_pids(&self) {
        let files =
            fs::read_dir(&self.root).into_iter().flatten().flatten().map(|file| file.path());
        for file in files.filter(|file| file.extension().is_some_and(|kind| kind == "pid")) {
            let _ = fs::remove_file(file);
        }
    }

    fn pid_file(&self, name: &str) -> PathBuf {
        self.root.join(format!("{name}.pid"))
    }
}

/// Locks the folder until the file is closed, which also happens when the process is killed.
fn lock(root: &Path) -> anyhow::Result<File> {
    let path = root.join("lock");
    let open = File::options().create(true).read(true).write(true).truncate(false).open(&path);
    let mut file = open.with_context(|| format!("cannot write {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0)?;
            file.rewind()?;
            write!(file, "{}", process::id())?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            bail!(
                "a system is already up in {} (process {holder}): stop it with Ctrl-C, or use another folder with \
                --data-dir",
                root.display()
            )
        }
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}
