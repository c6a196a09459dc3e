//! The shared memory of a server that was killed. Postgres removes it at the next start on the same data
//! folder. If there is none, it stays until the machine restarts, and the machine allows 4,096 of them.

use std::{fs, path::Path, process::Stdio};

/// The line of `postmaster.pid` with the key and the id of the System V segment.
/// <https://github.com/postgres/postgres/blob/REL_18_STABLE/src/include/utils/pidfile.h>
const SEGMENT_LINE: usize = 7;

/// The id of the segment of the server on this data folder. `None` if the server stopped normally.
pub(super) fn segment(data: &Path) -> Option<String> {
    let lock = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let line = lock.lines().nth(SEGMENT_LINE - 1)?;
    line.split_whitespace().nth(1).map(str::to_owned)
}

/// Removes the segment of a server that was killed, once its last process has ended.
pub(super) fn remove(data: &Path) {
    let Some(id) = segment(data) else { return };
    // If this fails, the segment stays.
    let _ = std::process::Command::new("ipcrm")
        .args(["-m", &id])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
}
