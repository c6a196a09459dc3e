//! Compares snapshots over time: how long something has been in its state, and how fast a number grows.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use time::OffsetDateTime;
use tokio::time::Instant;

/// The period of a rate: short enough to be current, long enough not to jump.
const WINDOW: Duration = Duration::from_secs(4);
/// How long something that is no longer seen is remembered.
const FORGET: Duration = Duration::from_secs(60);

/// Remembers states and recent numbers.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    states: BTreeMap<String, Seen>,
    numbers: BTreeMap<String, VecDeque<(Instant, f64)>>,
}

#[derive(Debug)]
struct Seen {
    state: String,
    since: OffsetDateTime,
    looked: Instant,
}

impl Tracker {
    /// When it entered this state, as far as this process has seen.
    pub(super) fn since(&mut self, what: &str, state: &str, now: OffsetDateTime) -> OffsetDateTime {
        let looked = Instant::now();
        let seen = self.states.entry(what.to_owned()).or_insert_with(|| Seen {
            state: state.to_owned(),
            since: now,
            looked,
        });
        if seen.state != state {
            (seen.state, seen.since) = (state.to_owned(), now);
        }
        seen.looked = looked;
        seen.since
    }

    /// When this number last stopped being 0. `None` while it is 0.
    pub(super) fn waiting_since(
        &mut self,
        what: &str,
        number: f64,
        now: OffsetDateTime,
    ) -> Option<OffsetDateTime> {
        let waits = number > 0.0;
        let since = self.since(what, if waits { "waits" } else { "idle" }, now);
        waits.then_some(since)
    }

    /// How fast a number grows, per second. A smaller number is a counter that was reset.
    pub(super) fn rate(&mut self, what: &str, number: f64, now: Instant) -> f64 {
        let samples = self.numbers.entry(what.to_owned()).or_default();
        if samples.back().is_some_and(|(_, last)| number < *last) {
            samples.clear();
        }
        samples.push_back((now, number));
        // Keeps one sample from before the window, so that the rate covers all of it.
        while samples.get(1).is_some_and(|(at, _)| now - *at >= WINDOW) {
            samples.pop_front();
        }
        match samples.front() {
            Some((first, then)) if now > *first => (number - then) / (now - *first).as_secs_f64(),
            _ => 0.0,
        }
    }

    /// Forgets everything not seen for [`FORGET`].
    pub(super) fn forget(&mut self, now: Instant) {
        self.states.retain(|_, seen| now.duration_since(seen.looked) < FORGET);
        self.numbers.retain(|_, samples| {
            samples.back().is_some_and(|(at, _)| now.duration_since(*at) < FORGET)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_covers_the_last_seconds_and_restarts_when_a_counter_is_reset() {
        let (mut tracker, begun) = (Tracker::default(), Instant::now());
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        assert_eq!(tracker.rate("a", 100.0, at(0)), 0.0);
        assert_eq!(tracker.rate("a", 120.0, at(2)), 10.0);
        assert_eq!(tracker.rate("a", 120.0, at(4)), 5.0);
        assert_eq!(tracker.rate("a", 120.0, at(10)), 0.0);
        assert_eq!(tracker.rate("a", 5.0, at(11)), 0.0);
        assert_eq!(tracker.rate("a", 8.0, at(12)), 3.0);
        tracker.forget(at(100));
        assert!(tracker.numbers.is_empty());
    }

    #[test]
    fn the_start_of_a_state_is_kept_until_the_state_changes() {
        let mut tracker = Tracker::default();
        let at = |seconds: i64| OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(seconds);
        assert_eq!(tracker.since("a", "ready", at(1)), at(1));
        assert_eq!(tracker.since("a", "ready", at(2)), at(1));
        assert_eq!(tracker.since("a", "frozen", at(3)), at(3));
        assert_eq!(tracker.waiting_since("b", 0.0, at(4)), None);
        assert_eq!(tracker.waiting_since("b", 2.0, at(5)), Some(at(5)));
        assert_eq!(tracker.waiting_since("b", 1.0, at(6)), Some(at(5)));
    }
}
