//! The pause between retries: it grows, has a bound, and is random, so that processes that failed
//! together do not retry together.

use std::time::Duration;

/// A pause that grows from `first` by a factor with each failure in a row, up to `max`. Each pause is
/// shortened at random by up to half.
///
/// ```
/// use bus::Backoff;
/// use std::time::Duration;
///
/// let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
/// assert!(backoff.pause() <= Duration::from_millis(50));
/// assert!(backoff.pause() <= Duration::from_millis(100));
/// backoff.reset();
/// assert!(backoff.pause() <= Duration::from_millis(50));
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    factor: u32,
    failures: u32,
}

/// The pause after a failure of NATS or Postgres: short enough to notice at once when it is back.
pub(crate) const RETRY: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));

/// A random time of at least half of this.
pub(crate) fn jittered(longest: Duration) -> Duration {
    longest.mul_f64(rand::random_range(0.5..=1.0))
}

impl Backoff {
    /// Pauses that double from `first` up to `max`.
    #[must_use]
    pub const fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, factor: 2, failures: 0 }
    }

    /// The same with another factor.
    #[must_use]
    pub const fn with_factor(self, factor: u32) -> Self {
        Self { factor, ..self }
    }

    /// The same after this many failures in a row.
    #[must_use]
    pub const fn with_failures(self, failures: u32) -> Self {
        Self { failures, ..self }
    }

    /// Counts a failure and returns how long to pause before the next try.
    #[must_use]
    pub fn pause(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.after(self.failures)
    }

    /// How long to pause after this many failures in a row. Does not count one.
    #[must_use]
    pub fn after(&self, failures: u32) -> Duration {
        let growth = self.factor.saturating_pow(failures.saturating_sub(1));
        let longest = self.first.saturating_mul(growth).min(self.max);
        jittered(longest)
    }

    /// How many failures there were in a row.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// Starts over after a success.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_their_limit_and_are_shortened_by_at_most_half() {
        let (first, max) = (Duration::from_millis(50), Duration::from_secs(1));
        let mut backoff = Backoff::new(first, max);
        for failure in 0..40 {
            let longest = first.saturating_mul(2_u32.saturating_pow(failure)).min(max);
            let pause = backoff.pause();
            assert!(pause <= longest && pause >= longest / 2, "{failure}: {pause:?}");
        }
        backoff.reset();
        assert!(backoff.pause() <= first);
        let steep = Backoff::new(first, max).with_factor(4);
        assert!(steep.after(2) > 2 * first - Duration::from_millis(1));
        assert!(steep.after(u32::MAX) <= max);
    }
}
