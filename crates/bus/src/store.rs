//! Where NATS keeps the events of a stream, and what becomes of those that it loses.

use std::{fmt, str::FromStr};

use async_nats::jetstream::stream::StorageType;

/// What keeps the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// NATS, in memory. What it loses, as with every restart, no group gets that had not acknowledged it. It
    /// stays in the log in Postgres: a process with another store publishes it again.
    Memory,
    /// NATS, in files. What it loses is published again from Postgres.
    File,
    /// Postgres. NATS has the events in memory, and what it loses is published again from Postgres.
    Postgres,
}

impl Store {
    /// The storage of the stream.
    #[must_use]
    pub fn storage(self) -> StorageType {
        match self {
            Self::Memory | Self::Postgres => StorageType::Memory,
            Self::File => StorageType::File,
        }
    }

    /// Whether what the stream has lost is published again.
    #[must_use]
    pub fn refills(self) -> bool {
        !matches!(self, Self::Memory)
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::File => "file",
            Self::Postgres => "postgres",
        })
    }
}

impl FromStr for Store {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let all = [Self::Memory, Self::File, Self::Postgres];
        let named = all.into_iter().find(|store| store.to_string() == text);
        named.ok_or("it must be memory, file or postgres")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_read_by_its_name() {
        for store in [Store::Memory, Store::File, Store::Postgres] {
            assert_eq!(store.to_string().parse(), Ok(store));
        }
        assert!("disk".parse::<Store>().is_err());
    }
}
