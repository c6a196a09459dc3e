//! Work that comes back: looked for now and then, done in batches, and put off while the database
//! is away.

use std::{future::Future, time::Duration};

use tokio::time::sleep;
use tracing::{error, warn};

use super::shutdown::Shutdown;
use crate::bus::{BusError, database_is_away};

/// The pause between full batches, so that a backlog does not take the database from everybody
/// else.
const BREATH: Duration = Duration::from_millis(10);

/// What came of one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// It was full: there may be more.
    Full,
    /// That was all.
    Done,
}

impl Round {
    /// A round that did so much, of a batch that holds so much.
    #[must_use]
    pub fn of(done: u64, batch: u64) -> Self {
        if done >= batch { Self::Full } else { Self::Done }
    }
}

/// Does a batch of work each `every`, and one after the other while they are full, until the process
/// stops. One that fails is tried again at the next time.
///
/// # Errors
/// Never; the type is what [`Shutdown::spawn`] takes.
pub async fn repeat<B>(
    what: &'static str,
    every: Duration,
    shutdown: Shutdown,
    mut batch: impl FnMut() -> B,
) -> anyhow::Result<()>
where
    B: Future<Output = Result<Round, BusError>>,
{
    let mut away = false;
    while !shutdown.has_begun() {
        let pause = match batch().await {
            Ok(round) => {
                away = false;
                if round == Round::Full { BREATH } else { every }
            }
            // Said once, and not at every round of an outage.
            Err(BusError::Database(error)) if database_is_away(&error) => {
                if !std::mem::replace(&mut away, true) {
                    warn!(chore = what, %error, "the database is away");
                }
                every
            }
            Err(error) => {
                error!(chore = what, %error, "a chore failed");
                every
            }
        };
        tokio::select! {
            () = shutdown.begun() => {}
            () = sleep(pause) => {}
        }
    }
    Ok(())
}
