//! Calls that do not come back. A PKCS#11 call has no timeout and its thread cannot be ended: its caller leaves at the
//! deadline, the thread is counted lost some time later and replaced, up to a limit. Beyond it only the end of the
//! process helps, which whoever runs the service learns by `Shared::doom`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::breaker::{BreakerState, Cause};
use super::shared::Shared;
use super::worker::Worker;
use super::{ErrorClass, TokenError};

/// How long calls wait for the first try to bring the token back.
const FIRST_TRY: Duration = Duration::from_secs(2);
/// How long a login may take, which no call runs beside, until the token counts as hanging.
const STANDS: Duration = Duration::from_secs(15);
const LONGEST_TICK: Duration = Duration::from_millis(250);
const SHORTEST_TICK: Duration = Duration::from_millis(5);

/// One thread's call.
#[derive(Default)]
pub(super) struct Watched {
    call: Mutex<Call>,
    /// A call may take at least as long, whatever its caller's deadline.
    at_least: Duration,
}

#[derive(Default)]
struct Call {
    /// Until when it should have ended.
    limit: Option<Instant>,
    heavy: bool,
    /// Another thread has taken the place of this one.
    lost: bool,
}

/// What a look at one thread says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Fine,
    Overdue,
    /// Just now.
    Lost {
        heavy: bool,
    },
    LostBefore,
}

impl Watched {
    pub(super) fn begin(&self, limit: Instant, heavy: bool) {
        let mut call = self.lock();
        call.limit = Some(match self.at_least {
            Duration::ZERO => limit,
            at_least => limit.max(Instant::now() + at_least),
        });
        call.heavy = heavy;
    }

    /// `true`: another thread works in the place of this one.
    pub(super) fn end(&self) -> bool {
        let mut call = self.lock();
        call.limit = None;
        call.lost
    }

    fn look(&self, now: Instant, grace: Duration) -> Seen {
        let mut call = self.lock();
        match call.limit {
            Some(_) if call.lost => Seen::LostBefore,
            Some(limit) if now >= limit + grace => {
                call.lost = true;
                Seen::Lost { heavy: call.heavy }
            }
            Some(limit) if now >= limit => Seen::Overdue,
            _ => Seen::Fine,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Call> {
        self.call.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The threads of one connected token.
pub(super) struct Watchdog {
    pub(super) keygen: Watched,
    workers: Mutex<Vec<Arc<Watched>>>,
    /// After a deadline, until a thread counts as lost.
    grace: Duration,
}

/// The numbers of one look.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Round {
    /// Workers whose call is past its deadline.
    stuck: usize,
    /// Those that can work.
    free: usize,
    /// Places to fill again.
    vacant: usize,
    lost: usize,
    keygen_lost: bool,
}

impl Watchdog {
    /// `work`: how long the key generation thread may take for a piece of work: it lists all objects after a login.
    pub(super) fn new(grace: Duration, work: Duration) -> Watchdog {
        Watchdog { keygen: Watched { at_least: work, ..Watched::default() }, workers: Mutex::default(), grace }
    }

    pub(super) fn watched(&self) -> Arc<Watched> {
        let watched = Arc::new(Watched::default());
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&watched));
        watched
    }

    /// Threads whose call is still running although another one works in their place.
    pub(super) fn lost(&self) -> usize {
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        // RULE: without `look`, which says only once that a thread was lost: to the round that fills its place.
        let is_lost = |worker: &&Arc<Watched>| {
            let call = worker.lock();
            call.lost && call.limit.is_some()
        };
        workers.iter().filter(is_lost).count()
    }

    /// Whether a worker can work.
    pub(super) fn has_free(&self) -> bool {
        let now = Instant::now();
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.iter().any(|worker| {
            let call = worker.lock();
            !call.lost && call.limit.is_none_or(|limit| now < limit)
        })
    }

    fn round(&self, now: Instant, mut heavy_ends: impl FnMut()) -> Round {
        let mut round = Round::default();
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        // A lost thread that came back has ended.
        workers.retain(|worker| {
            let call = worker.lock();
            !(call.lost && call.limit.is_none())
        });
        for worker in workers.iter() {
            match worker.look(now, self.grace) {
                Seen::Fine => round.free += 1,
                Seen::Overdue => round.stuck += 1,
                Seen::Lost { heavy } => {
                    if heavy {
                        heavy_ends();
                    }
                    round.vacant += 1;
                    round.lost += 1;
                }
                Seen::LostBefore => round.lost += 1,
            }
        }
        let keygen = self.keygen.look(now, self.grace);
        round.keygen_lost = matches!(keygen, Seen::Lost { .. } | Seen::LostBefore);
        round
    }

    pub(super) fn tick(&self) -> Duration {
        (self.grace / 4).clamp(SHORTEST_TICK, LONGEST_TICK)
    }
}

/// One look at all threads of a token. `spawn`: starts another worker.
pub(super) fn look(shared: &Arc<Shared>, workers: usize, spawn: &mut dyn FnMut(Worker)) {
    let round = shared.watchdog.round(Instant::now(), || shared.queue.heavy_ended());
    if round.keygen_lost {
        shared.doom("the thread that makes and finds keys hangs in a call of the token's library");
    }
    if round.lost > workers {
        shared.doom("more calls of the token's library hang than it has sessions");
    } else {
        for _ in 0..round.vacant {
            tracing::error!("a call of the token's library does not come back: another session takes its place");
            spawn(Worker::new(Arc::clone(shared)));
        }
    }
    let hung = |detail| shared.open_breaker(Cause::Hung, &TokenError::own(ErrorClass::Deadline, "token", detail));
    if round.stuck > 0 && round.free == 0 && round.vacant == 0 {
        hung("every session is in a call that does not come back");
    } else if shared.queue.paused_for() > STANDS {
        hung("a login, or C_Initialize, does not end");
    }
    // RULE: a queue that stands still answers by the deadline all the same: who does not is taken for hung (worker processes).
    let now = Instant::now();
    for work in shared.queue.expired(|work| work.deadline <= now) {
        let detail = "the deadline passed before the token was there again";
        work.job.refuse(TokenError::own(ErrorClass::Deadline, "queue", detail));
    }
    if shared.breaker.state() == BreakerState::Trying && shared.breaker.down_for() > FIRST_TRY {
        shared.stop_waiting();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(30);

    #[test]
    fn a_thread_is_overdue_and_then_lost_once() {
        let dog = Watchdog::new(GRACE, Duration::ZERO);
        let (one, _two) = (dog.watched(), dog.watched());
        let now = Instant::now();
        one.begin(now, true);
        let mut heavy = 0;
        assert_eq!(dog.round(now, || heavy += 1), Round { stuck: 1, free: 1, ..Round::default() });
        assert!(dog.has_free());
        assert_eq!(dog.round(now + GRACE, || heavy += 1), Round { vacant: 1, lost: 1, free: 1, ..Round::default() });
        assert_eq!(dog.round(now + GRACE, || heavy += 1), Round { lost: 1, free: 1, ..Round::default() });
        assert_eq!((heavy, dog.lost()), (1, 1));
        assert!(one.end(), "its place is taken");
        assert_eq!(dog.round(now + GRACE, || ()), Round { free: 1, ..Round::default() });
    }

    #[test]
    fn whoever_counts_lost_threads_does_not_hide_one_from_the_round() {
        let dog = Watchdog::new(Duration::ZERO, Duration::ZERO);
        let (one, now) = (dog.watched(), Instant::now());
        one.begin(now, true);
        assert_eq!(dog.lost(), 0);
        let mut heavy = 0;
        assert_eq!(dog.round(now, || heavy += 1), Round { vacant: 1, lost: 1, ..Round::default() });
        assert_eq!((heavy, dog.lost()), (1, 1));
    }

    #[test]
    fn a_call_in_time_is_nobodys_business() {
        let dog = Watchdog::new(GRACE, Duration::ZERO);
        let one = dog.watched();
        let now = Instant::now();
        one.begin(now + GRACE, false);
        assert_eq!(dog.round(now, || ()), Round { free: 1, ..Round::default() });
        assert!(!one.end());
        dog.keygen.begin(now, false);
        assert!(!dog.round(now, || ()).keygen_lost);
        assert!(dog.round(now + GRACE, || ()).keygen_lost);
    }
}
