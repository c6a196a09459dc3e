//! Loopback TCP ports for servers that are started later, and restarted.
//!
//! A port that is free now may be taken a moment later. So ports are reserved among all processes
//! that use this module, for the life of the process that asked: no other process gets the port of
//! a server that is about to start, or that was killed and will be restarted. The reservations are
//! file locks, which end with the process, however it ends.

use std::{
    collections::HashMap,
    fs::{self, File, TryLockError},
    net::{Ipv4Addr, TcpListener},
    ops::Range,
    sync::{LazyLock, Mutex, PoisonError},
};

use anyhow::{Context, bail, ensure};

/// Ports to choose from. Linux uses 32768 and above for outgoing connections, so a restarted server
/// finds its port still free.
const RANGE: Range<u16> = 18_000..32_000;
/// Ports are reserved in blocks of this size, because each lock keeps a file open: a test binary
/// uses some hundreds of ports, a local system a handful.
const BLOCK: u16 = 50;
const BLOCKS: u16 = (RANGE.end - RANGE.start) / BLOCK;

/// The ports that this process has reserved.
#[derive(Default)]
struct Reserved {
    /// The rest of the current block. Each port is handed out once.
    rest: Range<u16>,
    blocks: HashMap<u16, File>,
    single: HashMap<u16, File>,
}

static RESERVED: LazyLock<Mutex<Reserved>> = LazyLock::new(Mutex::default);

/// Returns a free port that no other process gets while this one lives.
///
/// # Errors
/// If none is left, or the reservation cannot be written.
pub fn free() -> anyhow::Result<u16> {
    consecutive(1)
}

/// Returns the first of `count` consecutive ports, at most 50, that are free and that no other
/// process gets while this one lives.
///
/// # Errors
/// As [`free`].
pub fn consecutive(count: u16) -> anyhow::Result<u16> {
    ensure!((1..=BLOCK).contains(&count), "the count must be between 1 and {BLOCK}");
    let mut reserved = RESERVED.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        while reserved.rest.len() >= usize::from(count) {
            let first = reserved.rest.start;
            // Skips a port that a program without this module uses.
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

/// Returns the wanted port if it is free and no other process has reserved it, else another one.
/// Either is reserved while this process lives.
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

/// Returns whether the port has no listener.
#[must_use]
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

impl Reserved {
    fn next_block(&mut self) -> anyhow::Result<()> {
        // Random, so that processes that start together do not race for the same blocks.
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

    /// Reserves the port. Returns whether this process has it now.
    fn claim(&mut self, port: u16) -> anyhow::Result<bool> {
        if self.single.contains_key(&port) {
            return Ok(true);
        }
        let lock = lock(&format!("port-{port}"))?;
        Ok(lock.is_some_and(|lock| self.single.insert(port, lock).is_none()))
    }
}

/// Takes the lock of this name; `None` if another process has it.
fn lock(name: &str) -> anyhow::Result<Option<File>> {
    // One folder per user, because a user cannot open another user's files.
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
