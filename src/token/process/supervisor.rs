//! Keeps a worker connected: starts it, has a spare at hand, ends one that hangs, and starts the next.
//!
//! The spare is a process that has mapped the module and has done nothing with it: no C_Initialize, no login, no objects in its
//! memory. It saves the start of a program and the loading of a library, costs a few megabytes, and holds no session of the token.
//! More workers than one at a time would each hold all objects and a login of their own; a library that lets its sessions work at a
//! time gains nothing by them.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::link::{Fault, Hub, Link};
use super::remote::{Core, needs_a_person};
use crate::token::call::About;
use crate::token::frame::{Guard, ToWorker};
use crate::token::{Backoff, ErrorClass, OpenFailure, PinGuard, TokenError};

const TICK: Duration = Duration::from_millis(100);
/// A worker that lived so long is replaced at once; where they die sooner the waits grow.
const LIVED: Duration = Duration::from_secs(2);
/// Before the first try, where it is due so soon, requests wait for it; otherwise they are refused until the token is back.
const WAITED_FOR: Duration = Duration::from_secs(1);
/// How long C_Initialize, login, probe and the list of all objects may take together, in times of `Settings::generate_deadline`:
/// a token with many objects takes its time.
pub const OPEN_FACTOR: u32 = 2;
const OPEN_LONGEST: Duration = Duration::from_secs(3600);
/// A spare is started when the token has begun to serve, and not sooner again than this after one was lost.
const SPARE_AFTER: Duration = Duration::from_millis(500);
const SPARE_AGAIN: Duration = Duration::from_secs(5);
/// How long running calls may take at the end.
const CLOSE_PATIENCE: Duration = Duration::from_secs(6);

pub(super) enum Event {
    Opened {
        number: u64,
        about: Box<About>,
    },
    OpenFailed {
        number: u64,
        error: TokenError,
    },
    Ended {
        number: u64,
        error: TokenError,
    },
    /// Connect with this PIN, where no worker is connected.
    TryPin {
        id: u64,
        pin: Arc<dyn PinGuard>,
        reply: oneshot::Sender<Result<(), TokenError>>,
    },
    Close,
}

pub(super) struct Supervisor {
    core: Arc<Core>,
    events: Receiver<Event>,
    backoff: Backoff,
    launches: u64,
    /// How long the next try to connect may take. RULE: it doubles with each that took longer: a token with many objects, or a machine
    /// with much to do, connects in the end.
    open_limit: Duration,
    spare: Option<Arc<Link>>,
    next_spare: Instant,
}

/// Why there is no connection.
enum Stop {
    Failed(TokenError),
    Close,
}

impl Supervisor {
    pub(super) fn new(core: Arc<Core>, events: Receiver<Event>) -> Supervisor {
        let backoff = Backoff::new(core.settings.retry);
        let open_limit = core.settings.generate_deadline.saturating_mul(OPEN_FACTOR);
        Supervisor { core, events, backoff, launches: 0, open_limit, spare: None, next_spare: Instant::now() }
    }

    /// The life of the thread. The first connection is told, with one try.
    ///
    /// RULE: workers are started by this thread: the system ends a worker with the thread that started it.
    pub(super) fn run(mut self, first: &mpsc::Sender<Result<(), TokenError>>) {
        let mut opened = self.open();
        let _ = first.send(match &opened {
            Ok(_) => Ok(()),
            Err(Stop::Failed(error)) => Err(error.clone()),
            Err(Stop::Close) => Err(Fault::Closing.error()),
        });
        while let Ok(link) = opened {
            let connected = Instant::now();
            match self.watch(&link) {
                Stop::Close => {
                    self.end(&link);
                    break;
                }
                Stop::Failed(error) => {
                    tracing::error!(%error, "the token is down");
                    let soon = connected.elapsed() < LIVED;
                    if !soon {
                        self.backoff.reset();
                    }
                    opened = self.restart(error, soon);
                }
            }
        }
        self.core.closed();
        if let Some(spare) = self.spare.take() {
            spare.fail(Fault::Closing);
        }
    }

    /// Until the worker ends.
    fn watch(&mut self, link: &Arc<Link>) -> Stop {
        loop {
            match self.events.recv_timeout(TICK) {
                Ok(Event::Ended { number, error }) if number == link.number => return Stop::Failed(error),
                Ok(Event::Ended { number, .. }) => self.lost_spare(number),
                Ok(Event::Close) | Err(RecvTimeoutError::Disconnected) => return Stop::Close,
                // It came while the worker was being started.
                Ok(Event::TryPin { reply, .. }) => refuse_pin(reply),
                Ok(Event::Opened { .. } | Event::OpenFailed { .. }) => link.fail(Fault::Mismatch("connected twice")),
                Err(RecvTimeoutError::Timeout) => {}
            }
            link.look();
            self.keep_spare();
        }
    }

    /// Until a worker is connected, or the token is closed.
    fn restart(&mut self, mut error: TokenError, mut wait: bool) -> Result<Arc<Link>, Stop> {
        let mut tried = false;
        loop {
            if wait || needs_a_person(&error) {
                let due = match needs_a_person(&error) {
                    // RULE: what the token said of the PIN it is not asked again. What its flags say may change.
                    true if error.rv == 0 && error.open_failure() != OpenFailure::PinIncorrect => {
                        Some(self.core.settings.retry.longest)
                    }
                    true => None,
                    false => Some(self.backoff.wait()),
                };
                // RULE: requests wait for one try; once it has failed they are refused until one connects.
                if tried || due.is_none_or(|wait| wait > WAITED_FOR) {
                    self.core.down(&error);
                }
                if let Some(link) = self.pause(due)? {
                    return Ok(link);
                }
                if !tried {
                    self.core.starting();
                }
            }
            tried = true;
            match self.open() {
                Ok(link) => {
                    tracing::info!(generation = link.number, "the token answers again, from another worker process");
                    return Ok(link);
                }
                Err(Stop::Close) => return Err(Stop::Close),
                Err(Stop::Failed(failed)) => {
                    tracing::warn!(error = %failed, "the token's worker process does not connect");
                    self.core.failed(&failed);
                    (error, wait) = (failed, true);
                }
            }
        }
    }

    /// Until the next try is due, or a PIN that a person gave connects. RULE: where the token refused the PIN no try is due by itself.
    fn pause(&mut self, wait: Option<Duration>) -> Result<Option<Arc<Link>>, Stop> {
        let due = wait.map(|wait| Instant::now() + wait);
        loop {
            let left = due.map_or(TICK, |due| due.saturating_duration_since(Instant::now()).min(TICK));
            match self.events.recv_timeout(left) {
                Ok(Event::TryPin { id, pin, reply }) => {
                    if let Some(link) = self.try_pin(id, pin, reply)? {
                        return Ok(Some(link));
                    }
                }
                Ok(Event::Ended { number, .. }) => self.lost_spare(number),
                Ok(Event::Close) | Err(RecvTimeoutError::Disconnected) => return Err(Stop::Close),
                Ok(Event::Opened { .. } | Event::OpenFailed { .. }) | Err(RecvTimeoutError::Timeout) => {}
            }
            if due.is_some_and(|due| Instant::now() >= due) {
                return Ok(None);
            }
        }
    }

    fn try_pin(
        &mut self,
        id: u64,
        pin: Arc<dyn PinGuard>,
        reply: oneshot::Sender<Result<(), TokenError>>,
    ) -> Result<Option<Arc<Link>>, Stop> {
        self.core.try_pin(id, pin);
        let opened = self.open();
        self.core.settle_pin(id, opened.is_ok());
        let (told, result) = match opened {
            Ok(link) => (Ok(()), Ok(Some(link))),
            Err(Stop::Failed(error)) => (Err(error), Ok(None)),
            Err(Stop::Close) => (Err(Fault::Closing.error()), Err(Stop::Close)),
        };
        let _ = reply.send(told);
        result
    }

    /// One try to connect, in the spare where there is one.
    fn open(&mut self) -> Result<Arc<Link>, Stop> {
        let spare = self.spare.take().filter(|spare| !spare.has_ended());
        let link = spare.map_or_else(|| self.launch(), Ok).map_err(Stop::Failed)?;
        let result = self.connect(&link);
        if result.is_err() {
            link.fail(Fault::Closing);
        }
        result.map(|()| link)
    }

    fn connect(&mut self, link: &Arc<Link>) -> Result<(), Stop> {
        let Some((id, pin)) = self.core.pin() else { return Err(Stop::Close) };
        let mut settings = self.core.settings.clone();
        if let Some(about) = self.core.about() {
            // RULE: another token behind the selector is refused before any login.
            settings.expect_serial = Some(about.info.serial.clone());
        }
        let (guard, expected) = (Guard { id, tag: pin.tag() }, settings.expect_serial.clone());
        let proofs = self.core.proofs();
        link.send(&ToWorker::Open { generation: link.number, settings: Box::new(settings), guard, proofs });
        let about = self.opened(link)?;
        if expected.is_some_and(|serial| serial != about.info.serial) {
            return Err(Stop::Failed(
                TokenError::own(ErrorClass::Operator, "token selector", "the worker process connected another token")
                    .because(OpenFailure::WrongToken),
            ));
        }
        tracing::debug!(pid = link.process_id(), generation = link.number, "a token's worker process is connected");
        self.core.connected(link, *about);
        self.next_spare = Instant::now() + SPARE_AFTER;
        Ok(())
    }

    /// What the worker says of the connection.
    fn opened(&mut self, link: &Arc<Link>) -> Result<Box<About>, Stop> {
        let limit = Instant::now() + self.open_limit;
        loop {
            match self.events.recv_timeout(TICK) {
                Ok(Event::Opened { number, about }) if number == link.number => return Ok(about),
                Ok(Event::OpenFailed { number, error } | Event::Ended { number, error }) if number == link.number => {
                    return Err(Stop::Failed(error));
                }
                Ok(Event::Ended { number, .. }) => self.lost_spare(number),
                Ok(Event::TryPin { reply, .. }) => refuse_pin(reply),
                Ok(Event::Close) | Err(RecvTimeoutError::Disconnected) => return Err(Stop::Close),
                Ok(Event::Opened { .. } | Event::OpenFailed { .. }) | Err(RecvTimeoutError::Timeout) => {}
            }
            link.look();
            if Instant::now() >= limit && !link.has_ended() {
                self.open_limit = self.open_limit.saturating_mul(2).min(OPEN_LONGEST);
                link.fail(Fault::Hung("the token does not connect"));
            }
        }
    }

    fn launch(&mut self) -> Result<Arc<Link>, TokenError> {
        let launched = self.core.launcher.launch()?;
        self.launches += 1;
        let link = Link::begin(self.launches, launched, Arc::clone(&self.core) as Arc<dyn Hub>)?;
        link.send(&ToWorker::Load { module: self.core.settings.module.clone() });
        Ok(link)
    }

    fn keep_spare(&mut self) {
        if let Some(spare) = &self.spare {
            spare.look();
        } else if Instant::now() >= self.next_spare {
            self.next_spare = Instant::now() + SPARE_AGAIN;
            match self.launch() {
                Ok(spare) => self.spare = Some(spare),
                Err(error) => tracing::warn!(%error, "there is no spare worker process for the token"),
            }
        }
    }

    fn lost_spare(&mut self, number: u64) {
        self.spare.take_if(|spare| spare.number == number);
    }

    /// Lets running calls end.
    fn end(&mut self, link: &Arc<Link>) {
        self.core.closed();
        link.send(&ToWorker::Close);
        let patience = Instant::now() + CLOSE_PATIENCE;
        while Instant::now() < patience && !link.has_ended() {
            let _ = self.events.recv_timeout(TICK);
        }
        link.fail(Fault::Closing);
    }
}

fn refuse_pin(reply: oneshot::Sender<Result<(), TokenError>>) {
    let busy = "the token's worker process is being started: try again";
    let _ = reply.send(Err(TokenError::own(ErrorClass::Capacity, "C_Login", busy)));
}
