//! What the threads of a connected token share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::breaker::{Breaker, BreakerState, Cause, Health};
use super::call::About;
use super::error::Counters;
use super::gcm::IvContract;
use super::handles::Handles;
use super::keygen::{Keygen, Nudge};
use super::module::Module;
use super::names::Names;
use super::pool::Pool;
use super::queue::{FairQueue, Pushed};
use super::seat::{Seat, SlotNow};
use super::watchdog::Watchdog;
use super::worker::{Work, Worker};
use super::{ErrorClass, Facts, Rung, Status, TokenError};

pub(super) struct Shared {
    pub(super) module: &'static Module,
    pub(super) slot: SlotNow,
    pub(super) about: Arc<About>,
    pub(super) serial: Arc<str>,
    pub(super) iv: IvContract,
    pub(super) names: Names,
    pub(super) ladder: Arc<[Rung]>,
    pub(super) remembers_pins: bool,
    pub(super) handles: Handles,
    pub(super) errors: Counters,
    pub(super) replaced: Arc<AtomicU64>,
    pub(super) queue: FairQueue<Work<Worker>>,
    pub(super) keygen: FairQueue<Work<Keygen>>,
    pub(super) breaker: Breaker,
    pub(super) pool: Pool,
    pub(super) watchdog: Watchdog,
    pub(super) generate_deadline: Duration,
    /// How long workers that left stay away.
    pub(super) rest: Duration,
    /// Milliseconds from `started` to the last call that succeeded; 0: none has.
    pub(super) succeeded: AtomicU64,
    pub(super) started: Instant,
    pub(super) doom: OnceLock<&'static str>,
}

impl Shared {
    pub(super) fn seat(&self) -> Seat {
        Seat::new(self.module, self.slot.clone(), self.iv, Arc::clone(&self.replaced))
    }

    /// Of a call that began at `started`.
    pub(super) fn facts(&self, mechanism: &'static str, started: Instant) -> Facts {
        let micros = u32::try_from(started.elapsed().as_micros()).unwrap_or(u32::MAX);
        Facts { mechanism, micros, token: Arc::clone(&self.serial), slot: self.slot.now().id() }
    }

    pub(super) fn status(&self) -> Status {
        self.breaker.status()
    }

    pub(super) fn succeeded(&self) {
        let since = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.succeeded.store(since.max(1), Ordering::Relaxed);
    }

    pub(super) fn health(&self) -> Health {
        let last = Some(self.succeeded.load(Ordering::Relaxed)).filter(|last| *last > 0).map(Duration::from_millis);
        Health {
            idle: last.map(|last| self.started.elapsed().saturating_sub(last)),
            epoch: self.handles.epoch(),
            initializations: self.module.generation(),
            lost_threads: self.watchdog.lost(),
            ..self.breaker.health()
        }
    }

    /// An error of the whole token opens the breaker; the key generation thread then looks until the token answers.
    pub(super) fn note(&self, error: &TokenError) {
        if error.class == ErrorClass::Capacity {
            self.pool.ask();
        }
        if let Some(cause) = Cause::of(error) {
            self.open_breaker(cause, error);
        }
    }

    pub(super) fn open_breaker(&self, cause: Cause, error: &TokenError) {
        tracing::debug!(%error, "the token failed");
        if !self.breaker.open(cause, error, self.module.generation()) {
            return;
        }
        // Calls wait for the first try; for what hangs nobody waits.
        if self.breaker.refusal().is_none() {
            self.queue.hold();
            // Another thread may have brought it back between the two.
            if self.breaker.state() != BreakerState::Trying {
                self.queue.release();
            }
        } else {
            self.stop_waiting()
        }
        // A full queue means that the thread is awake anyway; a refused nudge needs no answer.
        let nudge = Work { deadline: Instant::now() + Duration::from_secs(3600), job: Box::new(Nudge) };
        match self.keygen.push(&"token".into(), false, nudge) {
            Pushed::Accepted | Pushed::Full(_) | Pushed::Closed(_) => {}
            Pushed::Displaced(work) => {
                work.job.refuse(TokenError::own(ErrorClass::Capacity, "queue", "the queue is full"))
            }
        }
    }

    /// The token is well again.
    pub(super) fn close_breaker(&self) {
        self.breaker.close(self.handles.epoch(), self.module.generation());
        self.queue.release();
    }

    /// Whoever waits for a session is refused, and who comes now, too.
    pub(super) fn stop_waiting(&self) {
        self.breaker.give_up_waiting();
        if let Some(error) = self.breaker.refusal() {
            self.queue.empty().into_iter().for_each(|work| work.job.refuse(error.clone()));
        }
        self.queue.release();
    }

    /// Nothing but the end of the process helps.
    pub(super) fn doom(&self, reason: &'static str) {
        if self.doom.set(reason).is_ok() {
            tracing::error!(reason, "the process has to end");
        }
    }
}
