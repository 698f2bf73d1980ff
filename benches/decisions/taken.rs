//! How long something took, many times over.

use std::hint::black_box;
use std::time::{Duration, Instant};

#[derive(Default)]
pub struct Taken(Vec<Duration>);

/// Microseconds.
#[derive(Clone, Copy)]
pub struct Cost {
    pub median: f64,
    pub p99: f64,
}

impl Taken {
    /// Dropping the result counts.
    pub fn time<T>(&mut self, what: impl FnOnce() -> T) {
        let start = Instant::now();
        drop(black_box(what()));
        self.push(start.elapsed());
    }

    pub fn push(&mut self, taken: Duration) {
        self.0.push(taken);
    }

    pub fn cost(&mut self) -> Cost {
        self.0.sort_unstable();
        let at = |share: f64| {
            let index = (share * self.0.len().saturating_sub(1) as f64) as usize;
            self.0.get(index).map_or(0.0, |taken| taken.as_nanos() as f64 / 1_000.0)
        };
        Cost { median: at(0.5), p99: at(0.99) }
    }
}

/// The middle one of what several rounds said.
pub fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of.get(of.len() / 2).copied().unwrap_or_default()
}
