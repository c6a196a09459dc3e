//! One outage is one log line when it begins and one when it ends. The connection to NATS logs its own outages, and
//! the caller of [`Pool::watched`](crate::Pool::watched) those of Postgres. Work that fails because of an outage logs
//! at level `debug`.

use std::{
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use tokio::time::Instant;

/// How long a failure may be due to an outage that is not logged yet. The connection takes up to 12 s to find
/// that a server has fallen silent.
const PATIENCE: Duration = Duration::from_secs(15);

/// Failures in a row of something that an outage may explain.
#[derive(Debug, Default)]
pub(crate) struct Failing {
    since: Option<Instant>,
    logged: bool,
}

impl Failing {
    /// Records a failure that an outage may explain, which is logged elsewhere. Returns whether to log the
    /// failure: once, if no outage explains it.
    pub(crate) fn log_unless_outage(&mut self, outage_is_logged: bool) -> bool {
        let since = *self.since.get_or_insert_with(Instant::now);
        if outage_is_logged {
            self.since = Some(Instant::now());
        }
        !outage_is_logged && since.elapsed() >= PATIENCE && self.log_once()
    }

    /// Records a failure that no outage explains. Returns whether to log it: once.
    pub(crate) fn log_once(&mut self) -> bool {
        !std::mem::replace(&mut self.logged, true)
    }

    /// Records a success. Returns whether to log it, because a failure was logged.
    pub(crate) fn end(&mut self) -> bool {
        std::mem::take(self).logged
    }
}

/// Whether a database is away, if a task watches it.
#[derive(Debug, Default)]
pub(crate) struct DatabaseState(AtomicU8);

const UNWATCHED: u8 = 0;
const AVAILABLE: u8 = 1;
const AWAY: u8 = 2;

impl DatabaseState {
    pub(crate) fn set(&self, is_away: bool) {
        self.0.store(if is_away { AWAY } else { AVAILABLE }, Ordering::Relaxed);
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.0.load(Ordering::Relaxed) != UNWATCHED
    }

    pub(crate) fn is_away(&self) -> bool {
        self.0.load(Ordering::Relaxed) == AWAY
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failures_are_logged_once_unless_an_outage_explains_them() {
        let mut failing = Failing::default();
        for _ in 0..60 {
            assert!(!failing.log_unless_outage(true));
            advance(Duration::from_secs(1)).await;
        }
        let logs = |failing: &mut Failing| failing.log_unless_outage(false);
        assert!(!logs(&mut failing), "the outage may not be known to be over");
        advance(PATIENCE).await;
        assert!(logs(&mut failing));
        assert!(!logs(&mut failing));
        assert!(failing.end());
        assert!(!failing.end());
        assert!(failing.log_once());
    }
}
