//! Session workers: OS threads with a session each, fed by one queue. A worker never searches the token for objects; what
//! needs a search or a login goes back to the caller's side, which asks the key generation thread for it and comes again.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cryptoki::object::ObjectHandle;
use tokio::sync::oneshot;

use super::error::{CallError, Reaction, is_decrypt};
use super::fingerprint::{Fingerprint, Mismatch};
use super::gcm::IvContract;
use super::handles::{Class, Handles, Lookup};
use super::queue::{FairQueue, Taken};
use super::recovery::prove_system;
use super::seat::Seat;
use super::shared::Shared;
use super::watchdog::Watched;
use super::{Done, ErrorClass, KeyRef, TokenError, rv};

/// A job in a queue, for a thread whose state is `W`.
pub(super) struct Work<W> {
    pub(super) deadline: Instant,
    pub(super) job: Box<dyn Job<W>>,
}

pub(super) trait Job<W>: Send {
    /// The caller went away: nobody waits for the answer.
    fn abandoned(&self) -> bool;
    fn run(self: Box<Self>, thread: &mut W);
    /// Answered without touching the token.
    fn refuse(self: Box<Self>, error: TokenError);
}

/// A cryptographic operation that a session worker makes.
pub(super) trait Operation: Send + 'static {
    type Output: Send + 'static;
    const NAME: &'static str;

    /// Its name, on a token with this contract.
    fn mechanism(&self, gcm: IvContract) -> &'static str;
    fn key(&self) -> Option<(&KeyRef, Class)>;
    /// RSA private operations.
    fn heavy(&self) -> bool {
        false
    }
    /// Check the fingerprint even if it was checked before.
    fn checks(&self) -> bool {
        false
    }
    /// The calls; may run twice. `None`: the input is bad, seen without the token.
    fn run(&self, seat: &mut Seat, key: Option<ObjectHandle>) -> Result<Option<Self::Output>, CallError>;
}

pub(super) enum Outcome<O: Operation> {
    Done(Done<O::Output>),
    Failed(TokenError),
    /// Mend this and send the operation again.
    Mend(O, Need),
    /// This worker made room for the others: send the operation to one of them.
    Crowded(O, TokenError),
}

/// What the key generation thread has to do before an operation can go on.
#[derive(Debug, Clone, Copy)]
pub(super) enum Need {
    Find { lost: Option<ObjectHandle> },
    LogIn { epoch: u64 },
}

/// An operation on its way to a worker.
pub(super) struct Ticket<O: Operation> {
    pub(super) operation: O,
    pub(super) request_id: Arc<str>,
    pub(super) reply: Reply<Outcome<O>>,
}

/// Where an outcome goes.
pub(super) enum Reply<T> {
    /// To a caller that waits in this process.
    Waiting(oneshot::Sender<T>),
    /// Into this, on the session's own thread.
    Direct(Box<dyn FnOnce(T) + Send>),
}

impl<T> Reply<T> {
    fn is_closed(&self) -> bool {
        match self {
            Reply::Waiting(caller) => caller.is_closed(),
            Reply::Direct(_) => false,
        }
    }

    fn send(self, value: T) {
        match self {
            // Nobody listens after the deadline: the result is dropped, and wiped where it is secret.
            Reply::Waiting(caller) => drop(caller.send(value)),
            Reply::Direct(take) => take(value),
        }
    }
}

pub(super) struct Worker {
    shared: Arc<Shared>,
    seat: Seat,
    watched: Arc<Watched>,
    /// It left: the token has no room for its session.
    away: bool,
}

enum Stop {
    Failed(TokenError),
    Mend(Need),
    Crowded(TokenError),
}

/// How often a call is repeated since the login was renewed beside it. One renewal counts twice: before the login and after the
/// listing that follows it the handles are others.
const RENEWALS: u32 = 6;

/// How often a worker that left looks whether the service ends.
const LOOK: Duration = Duration::from_millis(50);

impl Worker {
    pub(super) fn new(shared: Arc<Shared>) -> Worker {
        let (seat, watched) = (shared.seat(), shared.watchdog.watched());
        Worker { shared, seat, watched, away: false }
    }

    /// The life of the thread.
    pub(super) fn serve(mut self) {
        let (shared, watched) = (Arc::clone(&self.shared), Arc::clone(&self.watched));
        while let Served::Yes = serve_one(&shared.queue, None, &watched, &mut self) {
            if self.away || shared.pool.leaves() {
                self.rest();
            }
        }
    }

    /// Without a session for a while.
    fn rest(&mut self) {
        self.seat.renew();
        let end = Instant::now() + self.shared.rest;
        while Instant::now() < end && !self.shared.queue.is_closed() {
            std::thread::sleep(LOOK.min(self.shared.rest));
        }
        self.away = false;
        self.shared.pool.back();
    }

    fn perform<O: Operation>(&mut self, operation: &O) -> Result<Done<O::Output>, Stop> {
        let (mut retried, mut doubted, mut renewals) = (false, None, 0);
        loop {
            let started = Instant::now();
            let epoch = self.shared.handles.epoch();
            let handle = match operation.key() {
                Some((key, class)) => Some(self.checked_handle(key, class, operation.checks())?),
                None => None,
            };
            let error = match operation.run(&mut self.seat, handle) {
                // RULE: a result made while a login was renewed may come from another key under the old number: void.
                Ok(_) if handle.is_some() && self.shared.handles.epoch() != epoch => {
                    renewals += 1;
                    if renewals > RENEWALS {
                        return Err(failed(ErrorClass::Session, O::NAME, "the login was renewed again and again"));
                    }
                    continue;
                }
                Ok(Some(value)) => {
                    if let Some(error) = doubted.filter(|error: &CallError| is_decrypt(error.function)) {
                        // Not said when it failed: it might have been the text.
                        tracing::info!(function = error.function, rv = %rv::said(error.rv), "a call failed, and not again");
                    }
                    self.shared.succeeded();
                    return Ok(Done { value, facts: self.shared.facts(operation.mechanism(self.shared.iv), started) });
                }
                Ok(None) => return Err(failed(ErrorClass::Data, O::NAME, "the input has a wrong form")),
                Err(error) => error,
            };
            match error.reaction() {
                Reaction::FreshSession if !retried => self.seat.renew(),
                Reaction::FreshSession => {
                    return Err(Stop::Failed(error.into_error("the session was lost twice")));
                }
                Reaction::FindAgain => return Err(Stop::Mend(Need::Find { lost: handle })),
                Reaction::LogIn => return Err(self.log_in()),
                Reaction::Report(class) => return Err(self.report(error, class)),
                // RULE: the key's own fingerprint, on a fresh session, tells bad input from a failing token; and what fails is tried once
                // more, since a login that was lost in the call may be back when the key is checked.
                Reaction::Ambiguous => {
                    self.seat.renew();
                    if let Some((key, class)) = operation.key() {
                        self.checked_handle(key, class, true)?;
                        // RULE: nor does a failure beside a renewed login say anything, as often as it comes.
                        if self.shared.handles.epoch() != epoch && renewals < RENEWALS {
                            renewals += 1;
                            continue;
                        }
                        if retried {
                            let (class, detail) = if self.shared.handles.epoch() != epoch {
                                (ErrorClass::Session, "the login was renewed again and again")
                            } else if is_decrypt(error.function) {
                                (ErrorClass::Data, "the ciphertext does not open; the key works")
                            } else {
                                // The key works and the token answers: this call does not, and the token is not down.
                                (ErrorClass::Context, "the call fails; the key works otherwise")
                            };
                            return Err(Stop::Failed(error.with_class(class, detail)));
                        }
                        doubted = Some(error);
                    } else if retried {
                        return Err(self.report(error, ErrorClass::Context));
                    }
                }
            }
            retried = true;
        }
    }

    /// The handle of `key`, with its fingerprint checked in this epoch (or now, if `again`).
    fn checked_handle(&mut self, key: &KeyRef, class: Class, again: bool) -> Result<ObjectHandle, Stop> {
        let (handle, public, checked, epoch) = match self.shared.handles.lookup(key, class) {
            Lookup::Found { handle, public, checked, epoch } => (handle, public, checked, epoch),
            Lookup::Unknown => return Err(Stop::Mend(Need::Find { lost: None })),
            Lookup::Missing => {
                return Err(failed(ErrorClass::KeyMissing, "C_FindObjects", "the token does not hold the object"));
            }
            Lookup::Duplicate => return Err(failed(ErrorClass::WrongKey, "C_FindObjects", DUPLICATE)),
        };
        if checked && !again {
            return Ok(handle);
        }
        let mut retried = false;
        loop {
            match check(&mut self.seat, &self.shared.handles, key, handle, public) {
                Ok(()) => {
                    self.shared.handles.mark_checked(key, handle, epoch);
                    return Ok(handle);
                }
                // RULE: a login that was renewed meanwhile may have put another key under the number: that says nothing of the key.
                Err(Mismatch::WrongKey(_)) if self.shared.handles.epoch() != epoch => {
                    return Err(Stop::Mend(Need::Find { lost: Some(handle) }));
                }
                Err(Mismatch::WrongKey(detail)) => {
                    // A store that was changed below the token can put another key under a handle that was checked.
                    self.shared.handles.mark_wrong(key, handle, epoch);
                    return Err(failed(ErrorClass::WrongKey, "fingerprint", detail));
                }
                Err(Mismatch::Call(error)) => match error.reaction() {
                    Reaction::FreshSession | Reaction::Ambiguous if !retried => self.seat.renew(),
                    Reaction::FreshSession => {
                        return Err(Stop::Failed(error.into_error("the session was lost twice")));
                    }
                    Reaction::FindAgain => return Err(Stop::Mend(Need::Find { lost: Some(handle) })),
                    Reaction::LogIn => return Err(self.log_in()),
                    Reaction::Report(class) => return Err(self.report(error, class)),
                    // Some tokens say CKR_GENERAL_ERROR for a handle that is gone, or that nobody is logged in for.
                    Reaction::Ambiguous if takes_a_handle(error.function) => {
                        return Err(Stop::Mend(Need::Find { lost: Some(handle) }));
                    }
                    Reaction::Ambiguous => return Err(self.report(error, ErrorClass::Context)),
                },
            }
            retried = true;
        }
    }

    fn log_in(&self) -> Stop {
        Stop::Mend(Need::LogIn { epoch: self.shared.handles.epoch() })
    }

    fn report(&mut self, error: CallError, class: ErrorClass) -> Stop {
        let error = error.with_class(class, "the token refused the call");
        if class == ErrorClass::Capacity {
            // This session makes room for the others; the last one stays.
            if self.shared.pool.leave() {
                self.away = true;
                return Stop::Crowded(error);
            }
            return Stop::Failed(error);
        }
        self.shared.note(&error);
        Stop::Failed(error)
    }
}

pub(super) const DUPLICATE: &str = "several objects of one class have this id: none is used";

fn check(
    seat: &mut Seat,
    handles: &Handles,
    key: &KeyRef,
    handle: ObjectHandle,
    public: Option<ObjectHandle>,
) -> Result<(), Mismatch> {
    match key {
        KeyRef::Kms { fingerprint, .. } => Fingerprint::decode(fingerprint)
            .ok_or(Mismatch::WrongKey("the recorded fingerprint cannot be read"))?
            .check(seat, handle, public),
        KeyRef::System(key) => prove_system(seat, handles, *key, handle, public),
    }
}

/// Functions that begin with the handle: it may be what is wrong.
fn takes_a_handle(function: &str) -> bool {
    matches!(function, "C_EncryptInit" | "C_DecryptInit" | "C_SignInit" | "C_GetAttributeValue")
}

fn failed(class: ErrorClass, function: &'static str, detail: &str) -> Stop {
    Stop::Failed(TokenError::own(class, function, detail))
}

impl<O: Operation> Job<Worker> for Ticket<O> {
    fn abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    fn run(self: Box<Self>, worker: &mut Worker) {
        let Ticket { operation, request_id, reply } = *self;
        let span = tracing::debug_span!(
            "token",
            call = O::NAME,
            request_id = &*request_id,
            key = %KeyName(operation.key().map(|(key, _)| key))
        );
        let _in_span = span.enter();
        let outcome = match worker.perform(&operation) {
            Ok(done) => Outcome::Done(done),
            Err(Stop::Failed(error)) => {
                tracing::debug!(%error, "the call failed");
                Outcome::Failed(error)
            }
            Err(Stop::Mend(need)) => {
                tracing::debug!(?need, "the call has to wait for a handle or the login");
                Outcome::Mend(operation, need)
            }
            Err(Stop::Crowded(error)) => Outcome::Crowded(operation, error),
        };
        reply.send(outcome);
    }

    fn refuse(self: Box<Self>, error: TokenError) {
        self.reply.send(Outcome::Failed(error));
    }
}

/// A key in a span: its id and nothing else.
struct KeyName<'a>(Option<&'a KeyRef>);

impl fmt::Display for KeyName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("-"),
            Some(KeyRef::System(key)) => write!(f, "{key:?}"),
            Some(KeyRef::Kms { material, .. }) => {
                for byte in material.id {
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Served {
    Yes,
    Nothing,
    Closed,
    /// The job took so long that another thread has the place of this one.
    Replaced,
}

/// Takes one job and runs it, unless its deadline has passed or its caller is gone.
pub(super) fn serve_one<W>(
    queue: &FairQueue<Work<W>>,
    patience: Option<Duration>,
    watched: &Watched,
    thread: &mut W,
) -> Served {
    let (work, heavy) = match queue.take(patience) {
        Taken::Job { job, heavy } => (job, heavy),
        Taken::Nothing => return Served::Nothing,
        Taken::Closed => return Served::Closed,
    };
    watched.begin(work.deadline, heavy);
    if work.deadline <= Instant::now() {
        work.job.refuse(TokenError::own(ErrorClass::Deadline, "queue", "the deadline passed before a worker was free"));
    } else if !work.job.abandoned() {
        // A panic ends the job and not the worker: the reply channel closes, which its caller sees as a failure.
        if catch_unwind(AssertUnwindSafe(|| work.job.run(thread))).is_err() {
            tracing::error!("a token job panicked");
        }
    }
    let replaced = watched.end();
    queue.done(heavy && !replaced);
    if replaced { Served::Replaced } else { Served::Yes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::queue::Pushed;

    #[derive(Default, Debug, PartialEq)]
    struct Calls(Vec<&'static str>);

    struct Probe(oneshot::Sender<Result<(), TokenError>>);

    impl Job<Calls> for Probe {
        fn abandoned(&self) -> bool {
            self.0.is_closed()
        }
        fn run(self: Box<Self>, thread: &mut Calls) {
            thread.0.push("ran");
            let _ = self.0.send(Ok(()));
        }
        fn refuse(self: Box<Self>, error: TokenError) {
            let _ = self.0.send(Err(error));
        }
    }

    fn queued(deadline: Instant) -> (FairQueue<Work<Calls>>, oneshot::Receiver<Result<(), TokenError>>) {
        let queue = FairQueue::new(4, 1);
        let (reply, answer) = oneshot::channel();
        let pushed = queue.push(&"a".into(), true, Work { deadline, job: Box::new(Probe(reply)) });
        assert!(matches!(pushed, Pushed::Accepted));
        (queue, answer)
    }

    #[test]
    fn a_job_past_its_deadline_does_not_touch_the_token() {
        let (queue, mut answer) = queued(Instant::now());
        let mut calls = Calls::default();
        assert_eq!(serve_one(&queue, None, &Watched::default(), &mut calls), Served::Yes);
        assert_eq!(calls, Calls::default());
        assert_eq!(answer.try_recv().unwrap().unwrap_err().class, ErrorClass::Deadline);
    }

    #[test]
    fn a_job_nobody_waits_for_does_not_touch_the_token() {
        let (queue, answer) = queued(Instant::now() + Duration::from_secs(60));
        drop(answer);
        let mut calls = Calls::default();
        assert_eq!(serve_one(&queue, None, &Watched::default(), &mut calls), Served::Yes);
        assert_eq!(calls, Calls::default());
    }

    #[test]
    fn a_job_in_time_runs() {
        let (queue, mut answer) = queued(Instant::now() + Duration::from_secs(60));
        let mut calls = Calls::default();
        assert_eq!(serve_one(&queue, None, &Watched::default(), &mut calls), Served::Yes);
        assert_eq!(calls.0, ["ran"]);
        assert!(answer.try_recv().unwrap().is_ok());
    }
}
