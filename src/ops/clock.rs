//! The clock that deletions wait for. A key is destroyed only when its window has passed by a wall clock that the service
//! saw move there steadily: a step of more than an hour, seen while running or across a restart, stops the sweeper until
//! 24 hours of steady running or until the operator confirms. Time is a parameter.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const LARGEST_STEP_MS: i64 = 3_600_000;
const STEADY_AGAIN: Duration = Duration::from_secs(24 * 3600);

/// What one look at the clocks found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    Steady,
    /// Stopped now, because of this step (milliseconds, positive: forward).
    Jumped(i64),
    /// Stopped before, and still.
    Waiting,
    /// Steady for long enough: the sweeper goes on.
    Resumed,
}

pub struct ClockWatch {
    state: Mutex<State>,
}

struct State {
    /// Wall clock minus monotonic clock at the start of the steady time, milliseconds.
    baseline: i64,
    epoch: Instant,
    stopped: Option<Stopped>,
}

struct Stopped {
    because: String,
    since: Instant,
}

impl ClockWatch {
    /// `last_seen`: the wall clock when the service last ran and trusted it, `None` for a new instance. Milliseconds since
    /// the epoch.
    pub fn new(last_seen: Option<i64>, wall: i64, now: Instant) -> Self {
        let stopped =
            last_seen.map(|seen| wall - seen).filter(|step| step.abs() > LARGEST_STEP_MS).map(|step| Stopped {
                because: format!(
                    "the clock moved by {} since the service last trusted it: a long stop cannot be told from a jump",
                    shown(step)
                ),
                since: now,
            });
        Self { state: Mutex::new(State { baseline: wall, epoch: now, stopped }) }
    }

    /// Compares the clocks; to be called about once a minute.
    pub fn look(&self, wall: i64, now: Instant) -> Look {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = i64::try_from(now.saturating_duration_since(state.epoch).as_millis()).unwrap_or(i64::MAX);
        let drift = wall.saturating_sub(elapsed).saturating_sub(state.baseline);
        if drift.abs() > LARGEST_STEP_MS {
            state.baseline = wall;
            state.epoch = now;
            state.stopped = Some(Stopped { because: format!("the clock jumped by {}", shown(drift)), since: now });
            return Look::Jumped(drift);
        }
        match &state.stopped {
            None => Look::Steady,
            Some(stopped) if now.saturating_duration_since(stopped.since) >= STEADY_AGAIN => {
                state.stopped = None;
                Look::Resumed
            }
            Some(_) => Look::Waiting,
        }
    }

    /// The operator says that the clock is right.
    pub fn confirm(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).stopped = None;
    }

    /// Why deletions wait, if they do.
    pub fn stopped_because(&self) -> Option<String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.stopped.as_ref().map(|s| s.because.clone())
    }
}

fn shown(step: i64) -> String {
    let minutes = step / 60_000;
    format!("{}{} h {} min", if step < 0 { "-" } else { "" }, (minutes / 60).abs(), (minutes % 60).abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    fn after(start: Instant, ms: i64) -> Instant {
        start + Duration::from_millis(ms as u64)
    }

    #[test]
    fn a_steady_clock_never_stops_the_sweeper() {
        let t = Instant::now();
        let watch = ClockWatch::new(Some(0), 1000, t);
        for minute in 0..100_000i64 {
            assert_eq!(watch.look(1000 + minute * 60_000, after(t, minute * 60_000)), Look::Steady);
        }
    }

    #[test]
    fn a_jump_stops_it_for_a_day() {
        let t = Instant::now();
        let watch = ClockWatch::new(None, 0, t);
        assert_eq!(watch.look(60_000 + 30 * 24 * HOUR, after(t, 60_000)), Look::Jumped(30 * 24 * HOUR));
        assert!(watch.stopped_because().unwrap().contains("720 h"));
        let jumped = 60_000 + 30 * 24 * HOUR;
        assert_eq!(watch.look(jumped + 23 * HOUR, after(t, 60_000 + 23 * HOUR)), Look::Waiting);
        assert_eq!(watch.look(jumped + 24 * HOUR, after(t, 60_000 + 24 * HOUR)), Look::Resumed);
        assert_eq!(watch.stopped_because(), None);
    }

    #[test]
    fn many_small_steps_are_a_jump_too() {
        let t = Instant::now();
        let watch = ClockWatch::new(None, 0, t);
        let looks: Vec<_> = (1..4).map(|n| watch.look(n * (60_000 + 25 * 60_000), after(t, n * 60_000))).collect();
        assert!(matches!(looks[..], [Look::Steady, Look::Steady, Look::Jumped(_)]), "{looks:?}");
    }

    #[test]
    fn backwards_and_across_a_restart() {
        let t = Instant::now();
        assert!(matches!(ClockWatch::new(None, 5 * HOUR, t).look(HOUR, after(t, 60_000)), Look::Jumped(_)));
        let restarted = ClockWatch::new(Some(0), 30 * 24 * HOUR, t);
        assert_eq!(restarted.look(30 * 24 * HOUR, t), Look::Waiting);
        restarted.confirm();
        assert_eq!(restarted.look(30 * 24 * HOUR, t), Look::Steady);
    }
}
