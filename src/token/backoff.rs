//! How long to wait before the next try to bring a token back.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The first wait and the longest: `retry_first_ms` and `retry_longest_ms` of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    pub first: Duration,
    pub longest: Duration,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry { first: Duration::from_millis(200), longest: Duration::from_secs(30) }
    }
}

/// Doubles with each failure. Half of each wait is chance, so that many instances do not come back at once.
pub struct Backoff {
    retry: Retry,
    next: Duration,
    chance: Box<dyn FnMut() -> u32 + Send>,
}

impl Backoff {
    pub fn new(retry: Retry) -> Backoff {
        // Without randomness the wait is in the middle: nothing depends on its secrecy.
        Backoff::with_chance(retry, || getrandom::u32().unwrap_or(u32::MAX / 2))
    }

    /// `chance`: any number, over the whole range.
    pub fn with_chance(retry: Retry, chance: impl FnMut() -> u32 + Send + 'static) -> Backoff {
        let retry = Retry { first: retry.first.min(retry.longest), ..retry };
        Backoff { retry, next: retry.first, chance: Box::new(chance) }
    }

    /// How long to wait now. Between half and the whole of a time that doubles up to the longest.
    pub fn wait(&mut self) -> Duration {
        let whole = self.next;
        self.next = whole.saturating_mul(2).min(self.retry.longest);
        let half = whole / 2;
        half + half.mul_f64(f64::from((self.chance)()) / f64::from(u32::MAX))
    }

    /// After a success.
    pub fn reset(&mut self) {
        self.next = self.retry.first;
    }
}

impl fmt::Debug for Backoff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backoff").field("retry", &self.retry).field("next", &self.next).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_from_the_first_to_the_longest() {
        let mut backoff = Backoff::with_chance(Retry::default(), || u32::MAX);
        let waits: Vec<_> = (0..10).map(|_| backoff.wait().as_millis()).collect();
        assert_eq!(waits, [200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000]);
        backoff.reset();
        assert_eq!(backoff.wait(), Duration::from_millis(200));
    }

    #[test]
    fn half_of_a_wait_is_chance() {
        let mut least = Backoff::with_chance(Retry::default(), || 0);
        assert_eq!(least.wait(), Duration::from_millis(100));
        assert_eq!(least.wait(), Duration::from_millis(200));
        let mut any = Backoff::new(Retry::default());
        let waits: Vec<_> = (0..64).map(|_| (any.reset(), any.wait()).1).collect();
        assert!(waits.iter().all(|wait| (100..=200).contains(&wait.as_millis())), "{waits:?}");
        assert!(waits.iter().any(|wait| *wait != waits[0]), "there is chance in it");
    }

    #[test]
    fn the_first_wait_is_never_over_the_longest() {
        let retry = Retry { first: Duration::from_secs(9), longest: Duration::from_millis(4) };
        assert_eq!(Backoff::with_chance(retry, || u32::MAX).wait(), Duration::from_millis(4));
    }
}
