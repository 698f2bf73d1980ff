//! What the threads of a connected token share.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cryptoki::slot::Slot;

use super::call::About;
use super::error::Counters;
use super::gcm::IvContract;
use super::handles::Handles;
use super::keygen::{Keygen, Nudge};
use super::module::Module;
use super::names::Names;
use super::queue::{FairQueue, Pushed};
use super::seat::Seat;
use super::worker::{Work, Worker};
use super::{ErrorClass, Facts, Rung, Status, TokenError};

pub(super) struct Shared {
    pub(super) module: &'static Module,
    pub(super) slot: Slot,
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
    pub(super) status: Mutex<Status>,
}

impl Shared {
    pub(super) fn seat(&self) -> Seat {
        Seat::new(self.module, self.slot, self.iv, Arc::clone(&self.replaced))
    }

    /// Of a call that began at `started`.
    pub(super) fn facts(&self, mechanism: &'static str, started: Instant) -> Facts {
        let micros = u32::try_from(started.elapsed().as_micros()).unwrap_or(u32::MAX);
        Facts { mechanism, micros, token: Arc::clone(&self.serial), slot: self.about.info.slot }
    }

    pub(super) fn status(&self) -> Status {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_status(&self, status: Status) {
        let mut current = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        if *current != status {
            match &status {
                Status::Ready => tracing::info!("the token answers"),
                Status::Down(reason) => tracing::error!(reason, "the token is down"),
            }
            *current = status;
        }
    }

    /// An error of the whole token turns the status; the key generation thread then looks until the token answers.
    pub(super) fn note(&self, error: &TokenError) {
        let reason = match error.class {
            ErrorClass::Context => "the token does not answer",
            ErrorClass::Operator => "the token refuses the login: an operator has to act",
            _ => return,
        };
        // The change of status is logged as an error; what follows is more of the same.
        tracing::debug!(%error, "the token failed");
        self.set_status(Status::Down(reason.to_owned()));
        // A full queue means that the thread is awake anyway; a refused nudge needs no answer.
        let nudge = Work { deadline: Instant::now() + Duration::from_secs(3600), job: Box::new(Nudge) };
        match self.keygen.push(&"token".into(), false, nudge) {
            Pushed::Accepted | Pushed::Full(_) | Pushed::Closed(_) => {}
            Pushed::Displaced(work) => {
                work.job.refuse(TokenError::own(ErrorClass::Capacity, "queue", "the queue is full"))
            }
        }
    }
}
