//! TCP ports on loopback for servers that are started later, and started again.
//!
//! A port that is merely free now may be another process's a moment later, so ports are reserved
//! among all processes that use this module, for the life of the process that asked: no other is
//! given a port of a server that is about to start, or that was killed and will be started again.
//! The reservations are locks on files, which end with the process, however it ends.

use std::{
    collections::HashMap,
    fs::{self, File, TryLockError},
    net::{Ipv4Addr, TcpListener},
    ops::Range,
    sync::{LazyLock, Mutex, PoisonError},
};

use anyhow::{Context, bail, ensure};

/// Ports to choose from. Linux gives 32768 and above to outgoing connections, so a server that is
/// restarted finds its port still free.
const RANGE: Range<u16> = 18_000..32_000;
/// Ports are reserved in blocks of so many, because each lock keeps a file open: a test binary
/// uses some hundreds of ports, a system that is brought up a handful.
const BLOCK: u16 = 50;
const BLOCKS: u16 = (RANGE.end - RANGE.start) / BLOCK;

/// What this process has reserved.
#[derive(Default)]
struct Reserved {
    /// What is left of the block in use. A port is given out once.
    rest: Range<u16>,
    blocks: HashMap<u16, File>,
    single: HashMap<u16, File>,
}

static RESERVED: LazyLock<Mutex<Reserved>> = LazyLock::new(Mutex::default);

/// A free port that no other process is given while this one lives.
///
/// # Errors
/// When none is left, or the reservation cannot be written.
pub fn free() -> anyhow::Result<u16> {
    consecutive(1)
}

/// The first of some consecutive ports, at most 50, that are free and that no other process is
/// given while this one lives.
///
/// # Errors
/// As [`free`].
pub fn consecutive(count: u16) -> anyhow::Result<u16> {
    ensure!((1..=BLOCK).contains(&count), "between 1 and {BLOCK} ports can be had in a row");
    let mut reserved = RESERVED.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        while reserved.rest.len() >= usize::from(count) {
            let first = reserved.rest.start;
            // A port of something that does not use this module is passed over.
            if let Some(taken) = (first..first + count).rev().find(|&port| !is_free(port)) {
                reserved.rest.start = taken + 1;
                continue;
            }
            reserved.rest.start = first + count;
            return Ok(first);
        }
        reserved.next_block()?;
    }
}

/// The port that is wanted if it is free and no other process has reserved it, else another.
/// Either is this process's while it lives.
///
/// # Errors
/// As [`free`].
pub fn free_or_other(wanted: u16) -> anyhow::Result<u16> {
    if is_free(wanted) {
        let mut reserved = RESERVED.lock().unwrap_or_else(PoisonError::into_inner);
        if reserved.claim(wanted)? {
            return Ok(wanted);
        }
    }
    free()
}

/// Whether nobody listens on the port.
#[must_use]
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

impl Reserved {
    fn next_block(&mut self) -> anyhow::Result<()> {
        // At random, so that processes that start together do not race for the same blocks.
        let start = rand::random_range(0..BLOCKS);
        for block in (0..BLOCKS).map(|step| (start + step) % BLOCKS) {
            if self.blocks.contains_key(&block) {
                continue;
            }
            if let Some(lock) = lock(&format!("block-{block}"))? {
                self.blocks.insert(block, lock);
                let first = RANGE.start + block * BLOCK;
                self.rest = first..first + BLOCK;
                return Ok(());
            }
        }
        bail!("no free port between {} and {}", RANGE.start, RANGE.end)
    }

    /// Whether the port is this process's now.
    fn claim(&mut self, port: u16) -> anyhow::Result<bool> {
        if self.single.contains_key(&port) {
            return Ok(true);
        }
        let lock = lock(&format!("port-{port}"))?;
        Ok(lock.is_some_and(|lock| self.single.insert(port, lock).is_none()))
    }
}

/// The lock of this name; `None` when another process has it.
fn lock(name: &str) -> anyhow::Result<Option<File>> {
    // A folder for each user, because one user's files cannot be opened by another.
    let user = rustix::process::geteuid().as_raw();
    let folder = std::env::temp_dir().join(format!("ticketing-ports-{user}"));
    let path = folder.join(name);
    let file = fs::create_dir_all(&folder)
        .and_then(|()| File::options().create(true).truncate(false).write(true).open(&path));
    let file = file.with_context(|| format!("cannot reserve a port in {}", folder.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}
