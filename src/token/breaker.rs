//! Whether the token is to be asked at all. While it is known to be down calls fail at once, and one thread looks whether
//! it is back: at once, and then after waits that double.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::error::is_lost;
use super::{Backoff, ErrorClass, Retry, Status, TokenError};

/// A token that stayed up this many times as long as the last wait begins again with the first wait.
const STEADY: u32 = 10;
/// Changes that are kept until somebody asks for them.
const CHANGES: usize = 64;

/// Why the token is not asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// A return value that says: device, slot or library. Only C_Finalize and C_Initialize help.
    Lost,
    /// Something is wrong; a look tells what.
    Doubted,
    /// Calls do not come back.
    Hung,
    /// The login is refused.
    Refused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum BreakerState {
    /// Calls go to the token.
    #[default]
    Closed,
    /// The first try to bring the token back runs: calls wait for it.
    Trying,
    /// Calls fail at once.
    Open,
}

/// The last error that said so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastError {
    pub function: String,
    /// `CKR_DEVICE_ERROR`; none where the bridge itself found the fault.
    pub rv: Option<String>,
}

/// The token went away or came back: for the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    Down {
        cause: Cause,
        error: LastError,
    },
    /// `first`: what made it go away. `last`: what the last try that failed met.
    Recovered {
        lasted: Duration,
        tries: u32,
        initializations: u64,
        epoch: u64,
        first: LastError,
        last: LastError,
    },
}

/// For `/metrics`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    pub breaker: BreakerState,
    /// The login is refused: only a person can help.
    pub refused: bool,
    /// How often the token went away.
    pub outages: u64,
    /// Tries of the present outage that failed.
    pub tries: u32,
    pub last_error: Option<LastError>,
    /// Since a call succeeded; none where none has.
    pub idle: Option<Duration>,
    /// Grows with every login and every C_Initialize: handles of an older one are void.
    pub epoch: u64,
    /// C_Finalize and C_Initialize, over all tokens of the module.
    pub initializations: u64,
    /// Threads whose call did not come back in time and is still running.
    pub lost_threads: usize,
}

/// What the thread that brings the token back may do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) cause: Cause,
    /// C_Finalize and C_Initialize are due.
    pub(super) renew: bool,
}

pub(super) struct Breaker(Mutex<State>);

struct State {
    state: BreakerState,
    backoff: Backoff,
    longest: Duration,
    last_wait: Duration,
    /// When C_Finalize and C_Initialize may be tried next.
    next_renewal: Instant,
    /// When to look next; `None`: not before somebody helps.
    next_look: Option<Instant>,
    down: Option<Down>,
    up_since: Instant,
    outages: u64,
    last_error: Option<LastError>,
    changes: VecDeque<Change>,
}

#[derive(Clone)]
struct Down {
    since: Instant,
    cause: Cause,
    tries: u32,
    first: LastError,
    initializations: u64,
}

impl Cause {
    /// `None`: the error says nothing about the whole token.
    pub(super) fn of(error: &TokenError) -> Option<Cause> {
        match error.class {
            ErrorClass::Context if is_lost(error.rv) => Some(Cause::Lost),
            ErrorClass::Context => Some(Cause::Doubted),
            ErrorClass::Operator => Some(Cause::Refused),
            _ => None,
        }
    }

    /// For `/readyz`: no `CKR_`.
    fn reason(self) -> &'static str {
        match self {
            Cause::Lost | Cause::Doubted => "the token does not answer",
            Cause::Hung => "calls to the token do not come back",
            Cause::Refused => "the token refuses the login: an operator has to act",
        }
    }

    /// For the log.
    pub fn name(self) -> &'static str {
        match self {
            Cause::Lost => "Lost",
            Cause::Doubted => "Doubted",
            Cause::Hung => "Hung",
            Cause::Refused => "LoginRefused",
        }
    }
}

impl LastError {
    pub(super) fn of(error: &TokenError) -> LastError {
        LastError { function: error.function.to_owned(), rv: error.rv_name().map(|name| name.into_owned()) }
    }
}

impl Breaker {
    pub(super) fn new(retry: Retry) -> Breaker {
        Breaker::with(Backoff::new(retry), retry.longest)
    }

    fn with(backoff: Backoff, longest: Duration) -> Breaker {
        let now = Instant::now();
        Breaker(Mutex::new(State {
            state: BreakerState::Closed,
            backoff,
            longest,
            last_wait: Duration::ZERO,
            next_renewal: now,
            next_look: None,
            down: None,
            up_since: now,
            outages: 0,
            last_error: None,
            changes: VecDeque::new(),
        }))
    }

    pub(super) fn status(&self) -> Status {
        match &self.lock().down {
            None => Status::Ready,
            Some(down) => Status::Down(down.cause.reason().to_owned()),
        }
    }

    /// What a call gets that is not made.
    pub(super) fn refusal(&self) -> Option<TokenError> {
        let state = self.lock();
        let down = state.down.as_ref().filter(|_| state.state == BreakerState::Open)?;
        let class = match down.cause {
            Cause::Lost | Cause::Doubted => ErrorClass::Context,
            Cause::Hung => ErrorClass::Deadline,
            Cause::Refused => ErrorClass::Operator,
        };
        Some(TokenError::own(class, "token", format!("{}: it is not asked before it is back", down.cause.reason())))
    }

    /// An error of the whole token. `true`: it was thought to be well before.
    pub(super) fn open(&self, cause: Cause, error: &TokenError, initializations: u64) -> bool {
        let mut state = self.lock();
        let told = LastError::of(error);
        state.last_error = Some(told.clone());
        let now = Instant::now();
        if let Some(down) = &mut state.down {
            if cause == Cause::Refused {
                down.cause = cause;
            }
            return false;
        }
        if now.duration_since(state.up_since) >= state.last_wait * STEADY {
            state.backoff.reset();
            state.next_renewal = now;
        }
        state.state = if cause == Cause::Hung { BreakerState::Open } else { BreakerState::Trying };
        state.next_look = Some(now);
        state.outages += 1;
        state.down = Some(Down { since: now, cause, tries: 0, first: told.clone(), initializations });
        state.changed(Change::Down { cause, error: told });
        tracing::error!(reason = cause.reason(), %error, "the token is down");
        true
    }

    /// When somebody has to look whether the token is back. `Err`: nobody has to.
    pub(super) fn next_look(&self) -> Result<Instant, ()> {
        let state = self.lock();
        state.down.as_ref().and(state.next_look).ok_or(())
    }

    /// A try begins.
    pub(super) fn plan(&self) -> Option<Plan> {
        let state = self.lock();
        let cause = state.down.as_ref()?.cause;
        Some(Plan { cause, renew: Instant::now() >= state.next_renewal && cause != Cause::Refused })
    }

    /// C_Finalize and C_Initialize are tried now: the next time is after a wait.
    pub(super) fn renewing(&self) {
        let mut state = self.lock();
        let wait = state.backoff.wait();
        state.last_wait = wait;
        state.next_renewal = Instant::now() + wait;
    }

    /// The try failed: from now on calls fail at once. `pin_tried`: the token refused the login itself, so that another
    /// look is of no use before somebody acts.
    pub(super) fn failed(&self, error: &TokenError) {
        let mut state = self.lock();
        let now = Instant::now();
        state.state = BreakerState::Open;
        state.last_error = Some(LastError::of(error));
        let Some(mut down) = state.down.clone() else { return };
        down.tries = down.tries.saturating_add(1);
        if let Some(cause) = Cause::of(error) {
            down.cause = cause;
        }
        state.next_look = match down.cause {
            // RULE: what the token said of the PIN it is not asked again. What its flags say may change.
            Cause::Refused if error.rv != 0 => None,
            Cause::Refused => Some(now + state.longest),
            // Without a renewal just now the wait is not set yet.
            _ if state.next_renewal <= now => {
                let wait = state.backoff.wait();
                state.last_wait = wait;
                state.next_renewal = now + wait;
                Some(state.next_renewal)
            }
            _ => Some(state.next_renewal),
        };
        state.down = Some(down);
    }

    /// Calls wait no longer for the try that runs.
    pub(super) fn give_up_waiting(&self) -> bool {
        let mut state = self.lock();
        let waited = state.state == BreakerState::Trying;
        if waited {
            state.state = BreakerState::Open;
        }
        waited
    }

    /// The token is well. `true`: it was thought to be down before.
    pub(super) fn close(&self, epoch: u64, initializations: u64) -> bool {
        let mut state = self.lock();
        state.state = BreakerState::Closed;
        state.next_look = None;
        let Some(down) = state.down.take() else { return false };
        state.up_since = Instant::now();
        let lasted = down.since.elapsed();
        tracing::info!(tries = down.tries, seconds = lasted.as_secs_f64(), "the token answers");
        let last = state.last_error.clone().unwrap_or_else(|| down.first.clone());
        state.changed(Change::Recovered {
            lasted,
            tries: down.tries + 1,
            initializations: initializations.saturating_sub(down.initializations),
            epoch,
            first: down.first,
            last,
        });
        true
    }

    pub(super) fn state(&self) -> BreakerState {
        self.lock().state
    }

    pub(super) fn down_for(&self) -> Duration {
        self.lock().down.as_ref().map_or(Duration::ZERO, |down| down.since.elapsed())
    }

    /// What changed since the last time somebody asked.
    pub(super) fn changes(&self) -> Vec<Change> {
        self.lock().changes.drain(..).collect()
    }

    /// Those fields of it that are known here.
    pub(super) fn health(&self) -> Health {
        let state = self.lock();
        Health {
            breaker: state.state,
            refused: state.down.as_ref().is_some_and(|down| down.cause == Cause::Refused),
            outages: state.outages,
            tries: state.down.as_ref().map_or(0, |down| down.tries),
            last_error: state.last_error.clone(),
            ..Health::default()
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change leaves the state whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn changed(&mut self, change: Change) {
        if self.changes.len() >= CHANGES {
            self.changes.pop_front();
        }
        self.changes.push_back(change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryptoki_sys as sys;

    const RETRY: Retry = Retry { first: Duration::from_secs(60), longest: Duration::from_secs(3600) };

    fn breaker() -> Breaker {
        Breaker::with(Backoff::with_chance(RETRY, || u32::MAX), RETRY.longest)
    }

    fn error(class: ErrorClass, rv: u64) -> TokenError {
        TokenError { rv, ..TokenError::own(class, "C_Sign", "test") }
    }

    #[test]
    fn causes() {
        let cause = |class, rv| Cause::of(&error(class, rv));
        assert_eq!(cause(ErrorClass::Context, sys::CKR_DEVICE_ERROR), Some(Cause::Lost));
        assert_eq!(cause(ErrorClass::Context, sys::CKR_CRYPTOKI_NOT_INITIALIZED), Some(Cause::Lost));
        assert_eq!(cause(ErrorClass::Context, sys::CKR_GENERAL_ERROR), Some(Cause::Doubted));
        assert_eq!(cause(ErrorClass::Context, 0), Some(Cause::Doubted));
        assert_eq!(cause(ErrorClass::Operator, sys::CKR_PIN_LOCKED), Some(Cause::Refused));
        for class in [ErrorClass::Data, ErrorClass::Capacity, ErrorClass::Deadline, ErrorClass::Session] {
            assert_eq!(cause(class, sys::CKR_DEVICE_ERROR), None);
        }
    }

    #[test]
    fn calls_wait_for_the_first_try_and_then_fail_at_once() {
        let breaker = breaker();
        assert!(breaker.refusal().is_none() && breaker.plan().is_none());
        assert!(breaker.open(Cause::Lost, &error(ErrorClass::Context, sys::CKR_DEVICE_ERROR), 0));
        assert!(!breaker.open(Cause::Lost, &error(ErrorClass::Context, sys::CKR_DEVICE_ERROR), 0));
        assert_eq!(breaker.state(), BreakerState::Trying);
        assert!(breaker.refusal().is_none(), "the first try runs");
        assert!(matches!(breaker.status(), Status::Down(_)));
        assert_eq!(breaker.plan(), Some(Plan { cause: Cause::Lost, renew: true }));
        breaker.renewing();
        breaker.failed(&error(ErrorClass::Context, 0));
        assert_eq!(breaker.refusal().unwrap().class, ErrorClass::Context);
        assert!(breaker.next_look().unwrap() > Instant::now() + RETRY.first / 2, "the first wait");
        assert!(!breaker.plan().unwrap().renew, "not before the wait is over");
        assert!(breaker.close(7, 1));
        assert!(breaker.refusal().is_none() && breaker.status() == Status::Ready);
        let changes = breaker.changes();
        assert!(
            matches!(&changes[0], Change::Down { cause: Cause::Lost, error } if error.rv.as_deref() == Some("CKR_DEVICE_ERROR"))
        );
        assert!(matches!(&changes[1], Change::Recovered { tries: 2, initializations: 1, epoch: 7, .. }), "{changes:?}");
        assert!(breaker.changes().is_empty());
    }

    #[test]
    fn a_token_that_goes_again_at_once_is_not_initialized_again_at_once() {
        let breaker = breaker();
        let lost = error(ErrorClass::Context, sys::CKR_DEVICE_ERROR);
        breaker.open(Cause::Lost, &lost, 0);
        breaker.renewing();
        breaker.close(1, 1);
        breaker.open(Cause::Lost, &lost, 1);
        assert!(!breaker.plan().unwrap().renew, "a look has to do");
        assert!(breaker.next_look().unwrap() <= Instant::now(), "which is made at once");
    }

    #[test]
    fn a_refused_pin_is_the_end_of_looking_and_flags_are_not() {
        let refused = breaker();
        let pin = error(ErrorClass::Operator, sys::CKR_PIN_INCORRECT);
        refused.open(Cause::Refused, &pin, 0);
        assert!(!refused.plan().unwrap().renew);
        refused.failed(&pin);
        assert!(refused.next_look().is_err() && refused.health().refused);
        assert_eq!(refused.refusal().unwrap().class, ErrorClass::Operator);
        let flagged = breaker();
        flagged.open(Cause::Lost, &error(ErrorClass::Context, sys::CKR_DEVICE_ERROR), 0);
        flagged.failed(&error(ErrorClass::Operator, 0));
        assert!(flagged.next_look().unwrap() > Instant::now() + RETRY.first);
    }

    #[test]
    fn what_hangs_is_not_waited_for() {
        let breaker = breaker();
        breaker.open(Cause::Hung, &error(ErrorClass::Deadline, 0), 0);
        assert_eq!(breaker.refusal().unwrap().class, ErrorClass::Deadline);
        assert!(!breaker.give_up_waiting());
    }
}
