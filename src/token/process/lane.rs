//! Requests on their way to a worker: those that wait, fairly per principal, and how many are with the worker.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

use crate::token::call::{Answer, Request};
use crate::token::queue::{FairQueue, Pushed, Taken};
use crate::token::{ErrorClass, TokenError};

/// A request that somebody waits for.
pub(super) struct Pending {
    pub(super) request: Request,
    pub(super) principal: Arc<str>,
    pub(super) request_id: Arc<str>,
    pub(super) deadline: Instant,
    pub(super) reply: oneshot::Sender<Result<Answer, TokenError>>,
    /// It was with a worker that ended.
    pub(super) repeated: bool,
}

impl Pending {
    /// As the operations in `operations` say: RSA private operations, which last long.
    pub(super) fn heavy(&self) -> bool {
        match &self.request {
            Request::Sign { mechanism, .. } => mechanism.is_rsa(),
            _ => false,
        }
    }

    /// Nobody listens after the deadline: the answer is dropped, and wiped where it is secret.
    pub(super) fn answer(self, result: Result<Answer, TokenError>) {
        let _ = self.reply.send(result);
    }
}

pub(super) struct Lane {
    queue: FairQueue<Pending>,
    with_worker: Mutex<Share>,
}

struct Share {
    now: usize,
    limit: usize,
}

impl Lane {
    /// `waiting` requests may wait; `heavy` heavy ones may be with the worker.
    pub(super) fn new(waiting: usize, heavy: usize) -> Lane {
        Lane { queue: FairQueue::new(waiting, heavy), with_worker: Mutex::new(Share { now: 0, limit: 0 }) }
    }

    /// How many may be with the worker.
    pub(super) fn set_limit(&self, limit: usize) {
        self.with_worker.lock().unwrap_or_else(PoisonError::into_inner).limit = limit;
    }

    pub(super) fn push(&self, pending: Pending) -> Result<(), TokenError> {
        let full = || TokenError::own(ErrorClass::Capacity, "queue", "the queue is full");
        let principal = Arc::clone(&pending.principal);
        match self.queue.push(&principal, pending.heavy(), pending) {
            Pushed::Accepted => Ok(()),
            Pushed::Displaced(victim) => {
                victim.answer(Err(full()));
                Ok(())
            }
            Pushed::Full(_) => Err(full()),
            Pushed::Closed(_) => Err(closing()),
        }
    }

    /// The next request that may go to the worker; `done` when it is answered.
    pub(super) fn next(&self) -> Option<Pending> {
        // Held while the queue is looked at: who pushes looks after, and one of the two sees the request.
        let mut share = self.with_worker.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if share.now >= share.limit {
                return None;
            }
            let Taken::Job { job, heavy } = self.queue.try_take() else { return None };
            if job.deadline <= Instant::now() {
                let late = "the deadline passed before a worker was free";
                job.answer(Err(TokenError::own(ErrorClass::Deadline, "queue", late)));
            } else if !job.reply.is_closed() {
                share.now += 1;
                return Some(job);
            }
            self.queue.done(heavy);
        }
    }

    pub(super) fn done(&self, heavy: bool) {
        self.queue.done(heavy);
        let mut share = self.with_worker.lock().unwrap_or_else(PoisonError::into_inner);
        share.now = share.now.saturating_sub(1);
    }

    pub(super) fn waiting(&self) -> usize {
        self.queue.waiting()
    }

    /// Those that wait; more may come.
    pub(super) fn drain(&self) -> Vec<Pending> {
        self.queue.drain()
    }

    /// Those that wait; no more come.
    pub(super) fn close(&self) -> Vec<Pending> {
        self.queue.close()
    }
}

pub(super) fn closing() -> TokenError {
    TokenError::own(ErrorClass::Context, "queue", "the token is being closed")
}
