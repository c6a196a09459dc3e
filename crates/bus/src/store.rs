//! Where the events of a stream are kept, and whether those that NATS loses are republished.

use std::{fmt, str::FromStr};

use async_nats::jetstream::stream::StorageType;

/// Where the events are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// NATS, in memory. Every restart loses all events, and groups that had not acknowledged them do not get them.
    /// They stay in the log in Postgres: a process with another store republishes them.
    Memory,
    /// NATS, in files. Events that it loses are republished from Postgres.
    File,
    /// Postgres. NATS has the events in memory, and those that it loses are republished from Postgres.
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

    /// Whether events that the stream has lost are republished.
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
    fn every_store_is_parsed_from_its_name_and_an_unknown_name_is_refused() {
        for store in [Store::Memory, Store::File, Store::Postgres] {
            assert_eq!(store.to_string().parse(), Ok(store));
        }
        assert!("disk".parse::<Store>().is_err());
    }
}
