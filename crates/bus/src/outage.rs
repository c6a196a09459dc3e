//! One outage, one line when it begins and one when it ends, told by whoever watches the connection: the
//! connection to NATS itself, and for Postgres whoever calls [`Pool::watched`](crate::Pool::watched). What fails
//! because of it says so at level `debug`.

use std::{
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use tokio::time::Instant;

/// For how long a failure may be an outage that nobody has told yet. The connection takes up to 12 s to find
/// that a server has fallen silent.
const PATIENCE: Duration = Duration::from_secs(15);

/// Failures in a row of something that an outage may explain.
#[derive(Debug, Default)]
pub(crate) struct Failing {
    since: Option<Instant>,
    told: bool,
}

impl Failing {
    /// It has failed once more, perhaps because of an outage that somebody else tells of. Returns whether to
    /// tell: once, if that does not explain it.
    pub(crate) fn because(&mut self, outage_is_told: bool) -> bool {
        let since = *self.since.get_or_insert_with(Instant::now);
        if outage_is_told {
            self.since = Some(Instant::now());
        }
        !outage_is_told && since.elapsed() >= PATIENCE && self.by_itself()
    }

    /// It has failed once more, for a reason of its own. Returns whether to tell: once.
    pub(crate) fn by_itself(&mut self) -> bool {
        !std::mem::replace(&mut self.told, true)
    }

    /// It works. Returns whether to tell that.
    pub(crate) fn end(&mut self) -> bool {
        std::mem::take(self).told
    }
}

/// What is told of a database.
#[derive(Debug, Default)]
pub(crate) struct Told(AtomicU8);

const NOBODY_WATCHES: u8 = 0;
const THERE: u8 = 1;
const AWAY: u8 = 2;

impl Told {
    pub(crate) fn set(&self, is_away: bool) {
        self.0.store(if is_away { AWAY } else { THERE }, Ordering::Relaxed);
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.0.load(Ordering::Relaxed) != NOBODY_WATCHES
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
    async fn what_an_outage_explains_is_not_told_and_the_rest_is_told_once() {
        let mut failing = Failing::default();
        for _ in 0..60 {
            assert!(!failing.because(true));
            advance(Duration::from_secs(1)).await;
        }
        let told = |failing: &mut Failing| failing.because(false);
        assert!(!told(&mut failing), "the outage may not be known to be over");
        advance(PATIENCE).await;
        assert!(told(&mut failing));
        assert!(!told(&mut failing));
        assert!(failing.end());
        assert!(!failing.end());
        assert!(failing.by_itself());
    }
}
