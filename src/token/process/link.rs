//! The connection to one worker process: what is open in it, whether it answers, and its end. An answer names request, key and
//! generation; one that does not match ends the worker, since what else it says cannot be trusted either.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use super::lane::Pending;
use super::outlet::Outlet;
use super::spawn::{Launched, Process};
use crate::token::call::{Answer, Request};
use crate::token::frame::{FROM_WORKER, FrameError, FromWorker, Inbox, LoginAsk, Subject, TO_WORKER, ToWorker, encode};
use crate::token::{ErrorClass, TokenError};

/// How often a worker whose token is well is asked how it is, and how long it may take to say so. One whose token is not is asked at
/// each look.
const PING_EVERY: Duration = Duration::from_secs(1);
const PING_LIMIT: Duration = Duration::from_secs(5);
/// How long after its deadline a request may be without an answer before the worker counts as hung.
pub(super) const GRACE: Duration = Duration::from_secs(1);
/// A service that did not run itself for so long judges nobody.
const ASLEEP: Duration = Duration::from_secs(1);

/// Why a worker was ended, or ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("the token's worker process ended")]
    Ended,
    #[error("the token's worker process does not answer and was ended: {0}")]
    Hung(&'static str),
    #[error("the token's worker process answered something else than it was asked and was ended: {0}")]
    Mismatch(&'static str),
    #[error("the connection to the token's worker process broke: {0}")]
    Broken(FrameError),
    #[error("the token is being closed")]
    Closing,
}

impl Fault {
    pub(super) fn error(&self) -> TokenError {
        TokenError::own(ErrorClass::Context, "token-worker", self.to_string())
    }

    /// A worker that ended may have left something unread, or something is sent to it before its end is read.
    fn of(error: FrameError) -> Fault {
        match error {
            FrameError::Ended => Fault::Ended,
            FrameError::Io(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                Fault::Ended
            }
            error => Fault::Broken(error),
        }
    }
}

/// Who hears of what a worker says.
pub(super) trait Hub: Send + Sync {
    fn received(&self, link: &Arc<Link>, message: FromWorker) -> Result<(), Fault>;

    /// Once, with the requests that were open, the oldest first.
    fn ended(&self, link: &Link, fault: Fault, left: Vec<Sent>);
}

/// A request that is with the worker.
pub(super) struct Sent {
    pub(super) pending: Pending,
    pub(super) slow: bool,
}

pub(super) struct Link {
    /// Grows with each worker: the generation of its answers.
    pub(super) number: u64,
    outlet: Outlet,
    hub: Arc<dyn Hub>,
    process: Mutex<Process>,
    table: Mutex<Table>,
    watch: Mutex<Watch>,
    /// What the worker said last: its token is not well.
    ill: AtomicBool,
    /// Of the login that it makes now.
    pub(super) login: Mutex<Option<mpsc::Sender<LoginAsk>>>,
}

#[derive(Default)]
struct Table {
    open: BTreeMap<u64, Sent>,
    /// It was asked to connect and has not said how that went.
    opening: bool,
    sessions: usize,
    ended: bool,
}

struct Watch {
    number: u64,
    asked: Option<Instant>,
    last: Instant,
    seen: Instant,
    judge_from: Instant,
}

impl Link {
    /// Starts to listen.
    pub(super) fn begin(number: u64, launched: Launched, hub: Arc<dyn Hub>) -> Result<Arc<Link>, TokenError> {
        let failed = |error: std::io::Error| TokenError::own(ErrorClass::Capacity, "token-worker", error.to_string());
        let source = launched.socket.try_clone().map_err(failed)?;
        let now = Instant::now();
        let link = Arc::new(Link {
            number,
            outlet: Outlet::patient(launched.socket),
            hub,
            process: Mutex::new(launched.process),
            table: Mutex::default(),
            watch: Mutex::new(Watch { number: 0, asked: None, last: now, seen: now, judge_from: now }),
            ill: AtomicBool::new(false),
            login: Mutex::new(None),
        });
        let listener = Arc::clone(&link);
        std::thread::Builder::new()
            .name("token-reader".to_owned())
            .spawn(move || listener.listen(source))
            .map_err(failed)?;
        Ok(link)
    }

    fn listen(self: Arc<Link>, mut source: UnixStream) {
        let mut inbox = Inbox::new(FROM_WORKER);
        let fault = loop {
            match inbox.next(&mut source) {
                Ok(message) => {
                    if let Err(fault) = self.hub.received(&self, message) {
                        break fault;
                    }
                }
                Err(error) => break Fault::of(error),
            }
        };
        self.fail(fault);
    }

    pub(super) fn process_id(&self) -> u32 {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).id()
    }

    /// A message that is no request.
    pub(super) fn send(&self, message: &ToWorker) {
        if let ToWorker::Open { .. } = message {
            self.table().opening = true;
        }
        if let Err(error) = encode(message, TO_WORKER).and_then(|frame| Ok(self.outlet.send(frame)?)) {
            self.fail(Fault::of(error));
        }
    }

    /// Gives the request back where the worker has ended.
    pub(super) fn call(&self, id: u64, mut pending: Pending, slow: bool) -> Option<Pending> {
        let left = pending.deadline.saturating_duration_since(Instant::now());
        let request = std::mem::replace(&mut pending.request, Request::Materials);
        let message = ToWorker::Call {
            id,
            generation: self.number,
            micros: u64::try_from(left.as_micros()).unwrap_or(u64::MAX),
            request_id: Arc::clone(&pending.request_id),
            request,
        };
        let frame = encode(&message, TO_WORKER);
        if let ToWorker::Call { request, .. } = message {
            pending.request = request;
        }
        let mut table = self.table();
        if table.ended {
            return Some(pending);
        }
        table.open.insert(id, Sent { pending, slow });
        drop(table);
        match frame.map(|frame| self.outlet.send(frame)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.fail(Fault::of(error.into())),
            Err(error) => {
                // Told as what it is, and to its caller alone.
                if let Some(sent) = self.table().open.remove(&id) {
                    let detail = format!("the request cannot be sent to the worker: {error}");
                    sent.pending.reject(TokenError::own(ErrorClass::Unsupported, "token-worker", detail));
                }
            }
        }
        None
    }

    /// The request that an answer is for.
    pub(super) fn answered(&self, id: u64, generation: u64, subject: Subject) -> Result<Sent, Fault> {
        let mut table = self.table();
        if generation != self.number {
            return Err(Fault::Mismatch("another generation"));
        }
        match table.open.get(&id) {
            None => Err(Fault::Mismatch("a request that is not open")),
            Some(sent) if Subject::of(&sent.pending.request) != subject => Err(Fault::Mismatch("another key")),
            Some(_) => table.open.remove(&id).ok_or(Fault::Mismatch("a request that is not open")),
        }
    }

    /// It says that it is connected, or is not. Only the answer to `Open` may.
    pub(super) fn opened(&self, generation: u64, sessions: usize) -> Result<(), Fault> {
        let mut table = self.table();
        if generation != self.number || !std::mem::take(&mut table.opening) {
            return Err(Fault::Mismatch("a connection that nobody asked for"));
        }
        table.sessions = sessions;
        Ok(())
    }

    /// Whether it may ask for a PIN: one that serves a token, or is about to.
    pub(super) fn may_log_in(&self) -> bool {
        let table = self.table();
        table.opening || table.sessions > 0
    }

    pub(super) fn has_ended(&self) -> bool {
        self.table().ended
    }

    /// How many requests of those that are open, the oldest first, may be in a session now: a worker takes them in their order,
    /// except for heavy ones, which wait for each other.
    pub(super) fn in_sessions(sent: &[&Sent], sessions: usize) -> usize {
        sessions.max(1) + sent.iter().filter(|sent| sent.pending.heavy()).count()
    }

    /// Asks how the worker is, if it was not asked already.
    pub(super) fn ping(&self) {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        if watch.asked.is_none() {
            watch.number += 1;
            let now = Instant::now();
            (watch.asked, watch.last) = (Some(now), now);
            let number = watch.number;
            drop(watch);
            self.send(&ToWorker::Ping(number));
        }
    }

    pub(super) fn pong(&self, number: u64, well: bool) -> Result<(), Fault> {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        if watch.asked.take().is_none() || watch.number != number {
            return Err(Fault::Mismatch("a sign of life that nobody asked for"));
        }
        self.ill.store(!well, Ordering::Relaxed);
        Ok(())
    }

    /// Whether its token was not well when it was asked last.
    pub(super) fn is_ill(&self) -> bool {
        self.ill.load(Ordering::Relaxed)
    }

    /// Called often; ends a worker that does not answer.
    pub(super) fn look(&self) {
        let now = Instant::now();
        if let Err(error) = self.outlet.flush() {
            return self.fail(Fault::of(error.into()));
        }
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(watch.seen) > ASLEEP {
            // It is this process that stood still.
            watch.judge_from = now + GRACE;
            watch.asked = watch.asked.map(|_| now);
        }
        watch.seen = now;
        let judged = now >= watch.judge_from;
        let silent = watch.asked.is_some_and(|asked| now.saturating_duration_since(asked) > PING_LIMIT);
        let due = self.is_ill() || now.saturating_duration_since(watch.last) >= PING_EVERY;
        drop(watch);
        if judged && silent {
            self.fail(Fault::Hung("no sign of life"));
        } else if judged && self.overdue(now) {
            self.fail(Fault::Hung("a request has no answer"));
        } else if due {
            self.ping();
        }
    }

    fn overdue(&self, now: Instant) -> bool {
        let table = self.table();
        let open: Vec<&Sent> = table.open.values().collect();
        let mut first = open.iter().take(Link::in_sessions(&open, table.sessions));
        first.any(|sent| sent.is_overdue(now))
    }

    /// Ends the worker; the first reason counts.
    pub(super) fn fail(&self, fault: Fault) {
        let mut table = self.table();
        if std::mem::replace(&mut table.ended, true) {
            return;
        }
        let left: Vec<Sent> = std::mem::take(&mut table.open).into_values().collect();
        drop(table);
        let _ = self.outlet.socket.shutdown(Shutdown::Both);
        self.process.lock().unwrap_or_else(PoisonError::into_inner).kill();
        // A login that waits for its answer waits in vain.
        self.login.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.hub.ended(self, fault, left);
    }

    pub(super) fn sessions(&self) -> usize {
        self.table().sessions
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sent {
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        now >= self.pending.deadline + GRACE
    }
}

impl Pending {
    fn reject(self, error: TokenError) {
        self.answer(Err::<Answer, TokenError>(error));
    }
}
