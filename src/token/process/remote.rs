//! A token in a worker process, as its users see it. Requests wait here and not in the worker, so that a worker that ends takes
//! few of them along.
//!
//! RULE: what was with a worker when it ended is answered with an error, or, where it only reads and was most likely still waiting
//! for a session, sent to the next worker, once. What changes the token is never repeated: whether it was done is settled by
//! whoever asked for it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::sync::oneshot;

use super::lane::{Lane, Pending, closing};
use super::link::{Fault, GRACE, Hub, Link, Sent};
use super::login;
use super::spawn::Launch;
use super::state::{EPOCH_BITS, Phase, State};
use super::supervisor::{Event, Supervisor};
use crate::secret::SecretString;
use crate::token::breaker::Change;
use crate::token::call::{About, Answer, Backend, BoxFuture, Request};
use crate::token::error::Counters;
use crate::token::frame::{FromWorker, Guard, LoginAsk, ToWorker};
use crate::token::handles::Proofs;
use crate::token::pin::DRAIN;
use crate::token::{
    CallContext, ErrorClass, Gauges, HeldPin, Isolation, Marks, MaterialId, OpenFailure, PinGuard, Settings, Status,
    TokenError, TokenGroup,
};

/// Requests with the worker beyond its sessions: a session that ends one has the next at hand.
const AHEAD: usize = 4;
/// Those for the key generation thread.
const SLOW_WAITING: usize = 64;
const SLOW_AHEAD: usize = 2;
/// How long `close` waits.
const CLOSE_PATIENCE: Duration = Duration::from_secs(7);
/// Places in one frame.
const PLACES: usize = 4096;

/// The last one that goes ends the worker.
pub struct Remote {
    core: Arc<Core>,
    supervisor: Mutex<Option<std::thread::JoinHandle<()>>>,
}

pub(super) struct Core {
    pub(super) settings: Settings,
    pub(super) isolation: Isolation,
    pub(super) launcher: Box<dyn Launch>,
    /// The worker that is connected.
    link: ArcSwapOption<Link>,
    quick: Lane,
    slow: Lane,
    state: Mutex<State>,
    places: Mutex<HashMap<MaterialId, Vec<u8>>>,
    changes: Mutex<HashMap<u64, oneshot::Sender<Result<(), TokenError>>>>,
    errors: Counters,
    events: mpsc::Sender<Event>,
    ids: AtomicU64,
    marks: Marks,
}

impl Remote {
    /// Starts a worker and connects in it; one try. Blocking.
    pub fn open(settings: Settings, pin: SecretString, isolation: Isolation) -> Result<Remote, TokenError> {
        let Isolation::Process(command) = isolation.clone() else {
            return Err(TokenError::own(ErrorClass::Unsupported, "token-worker", "no worker is configured"));
        };
        Remote::open_with(settings, pin, Box::new(command), isolation)
    }

    pub(super) fn open_with(
        settings: Settings,
        pin: SecretString,
        launcher: Box<dyn Launch>,
        isolation: Isolation,
    ) -> Result<Remote, TokenError> {
        let marks = Marks::at(&settings.pin_marks);
        let (events, inbox) = mpsc::channel();
        let core = Arc::new(Core {
            quick: Lane::new(settings.queue, settings.workers),
            slow: Lane::new(SLOW_WAITING, 1),
            settings,
            isolation,
            launcher,
            link: ArcSwapOption::empty(),
            state: Mutex::new(State::new(Arc::new(HeldPin::new(pin, marks.clone())))),
            places: Mutex::default(),
            changes: Mutex::default(),
            errors: Counters::default(),
            events,
            ids: AtomicU64::new(1),
            marks,
        });
        let (opened, wait) = mpsc::channel();
        let supervisor = Supervisor::new(Arc::clone(&core), inbox);
        let thread = std::thread::Builder::new()
            .name("token-supervisor".to_owned())
            .spawn(move || supervisor.run(&opened))
            .map_err(|error| TokenError::own(ErrorClass::Capacity, "thread", error.to_string()))?;
        let ended = || TokenError::own(ErrorClass::Context, "token-worker", "the supervisor ended");
        wait.recv().unwrap_or_else(|_| Err(ended()))?;
        Ok(Remote { core, supervisor: Mutex::new(Some(thread)) })
    }
}

impl Backend for Remote {
    fn perform<'a>(&'a self, ctx: &'a CallContext, request: Request) -> BoxFuture<'a, Result<Answer, TokenError>> {
        Box::pin(
            async move { self.core.ask(ctx, request).await.inspect_err(|error| self.core.errors.count(error.class)) },
        )
    }

    fn change_pin(&self, pin: SecretString) -> BoxFuture<'_, Result<(), TokenError>> {
        Box::pin(self.core.change_pin(Arc::new(HeldPin::new(pin, self.core.marks.clone()))))
    }

    fn about(&self) -> Arc<About> {
        // There from `open` on.
        self.core.state().about.clone().unwrap_or_default()
    }

    fn status(&self) -> Status {
        let state = self.core.state();
        let down = |reason: &str| Status::Down(reason.to_owned());
        match &state.phase {
            Phase::Ready => state.health.as_ref().map_or(Status::Ready, |health| health.status.clone()),
            Phase::Starting => down("the token's worker process is being started"),
            Phase::Down(error) if error.class == ErrorClass::Operator => {
                down("the token refuses the login: an operator has to act")
            }
            Phase::Down(_) => down("the token does not answer"),
            Phase::Closed => down("the token is closed"),
        }
    }

    fn gauges(&self) -> Gauges {
        let core = &self.core;
        let state = core.state();
        let health = state.health.as_ref();
        Gauges {
            queued: core.quick.waiting() + health.map_or(0, |health| health.queued),
            keygen_queued: core.slow.waiting() + health.map_or(0, |health| health.keygen_queued),
            workers: core.link.load().as_ref().map_or(0, |link| link.sessions()),
            sessions_replaced: state.replaced + health.map_or(0, |health| health.sessions_replaced),
            errors: core.errors.read(),
            debris: health.map_or(0, |health| health.debris),
            duplicates: health.map_or(0, |health| health.duplicates),
            health: state.recovery(core.link.load().as_ref().map_or(0, |link| link.number)),
        }
    }

    fn changes(&self) -> Vec<Change> {
        self.core.state().changes.drain(..).collect()
    }

    fn place(&self, places: Vec<(MaterialId, Vec<u8>)>) {
        let mut known = self.core.places.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(places.iter().cloned());
        if let Some(link) = &*self.core.link.load() {
            places.chunks(PLACES).for_each(|places| link.send(&ToWorker::Place(places.to_vec())));
        }
    }

    fn give_up(&self, material: MaterialId) {
        let mut known = self.core.places.lock().unwrap_or_else(PoisonError::into_inner);
        known.remove(&material);
        if let Some(link) = &*self.core.link.load() {
            link.send(&ToWorker::GiveUp(material));
        }
    }

    fn close(&self) {
        let _ = self.core.events.send(Event::Close);
        let thread = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).take();
        let patience = Instant::now() + CLOSE_PATIENCE;
        if let Some(thread) = thread {
            while !thread.is_finished() && Instant::now() < patience {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }

    /// What hangs is the worker, which is ended.
    fn doom(&self) -> Option<String> {
        None
    }

    fn group(&self) -> Option<&dyn TokenGroup> {
        None
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        let _ = self.core.events.send(Event::Close);
    }
}

impl Core {
    async fn ask(self: &Arc<Core>, ctx: &CallContext, request: Request) -> Result<Answer, TokenError> {
        match self.phase() {
            Phase::Starting | Phase::Ready => {}
            Phase::Down(error) => return Err(error),
            Phase::Closed => return Err(closing()),
        }
        let (name, slow) = (request.name(), request.is_slow());
        let deadline = if slow { Instant::now() + self.settings.generate_deadline } else { ctx.deadline };
        let (reply, answer) = oneshot::channel();
        self.lane(slow).push(Pending {
            request,
            principal: Arc::clone(&ctx.principal),
            request_id: Arc::clone(&ctx.request_id),
            deadline,
            reply,
            repeated: false,
        })?;
        self.pump(slow);
        match tokio::time::timeout_at(deadline.into(), answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => {
                Err(TokenError::own(ErrorClass::Capacity, name, "the request was dropped when the worker ended"))
            }
            Err(_) => Err(TokenError::own(ErrorClass::Deadline, name, "the deadline passed")),
        }
    }

    fn lane(&self, slow: bool) -> &Lane {
        if slow { &self.slow } else { &self.quick }
    }

    /// Hands waiting requests to the worker, as many as it may have.
    fn pump(&self, slow: bool) {
        let lane = self.lane(slow);
        while let Some(link) = self.link.load_full() {
            let Some(pending) = lane.next() else { return };
            let heavy = pending.heavy();
            let Some(pending) = of_this_worker(&link, pending) else {
                lane.done(heavy);
                continue;
            };
            if let Some(pending) = link.call(self.ids.fetch_add(1, Ordering::Relaxed), pending, slow) {
                // It has not been with the worker.
                lane.done(heavy);
                self.again(pending, slow);
                return;
            }
        }
    }

    fn again(&self, pending: Pending, slow: bool) {
        // One that finds no place is dropped, which its caller sees.
        let _ = self.lane(slow).push(pending);
    }

    async fn change_pin(&self, pin: Arc<dyn PinGuard>) -> Result<(), TokenError> {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        let link = self.link.load_full();
        let (tag, tried_here) = (pin.tag(), link.is_some());
        match link {
            Some(link) => {
                self.changes.lock().unwrap_or_else(PoisonError::into_inner).insert(id, reply);
                self.state().pins.push((id, pin));
                link.send(&ToWorker::ChangePin { id, guard: Guard { id, tag } });
            }
            // A token that is down for want of a PIN is connected with this one.
            None => self.tell(Event::TryPin { id, pin, reply }),
        }
        let limit = self.settings.generate_deadline + DRAIN + GRACE;
        let result = match tokio::time::timeout(limit, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Fault::Ended.error()),
            Err(_) => Err(TokenError::own(ErrorClass::Deadline, "change_pin", "the deadline passed")),
        };
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        // RULE: a PIN that connects is settled by who connects, whoever still waits for that.
        if tried_here {
            self.settle_pin(id, result.is_ok());
        }
        result
    }

    /// The PIN that was tried is the token's, or it is not.
    pub(super) fn settle_pin(&self, id: u64, works: bool) {
        self.state().pins.retain(|(known, _)| (*known == id) == works);
    }

    /// The PIN that `Open` uses: the one that is tried, before the one that is known.
    pub(super) fn pin(&self) -> Option<(u64, Arc<dyn PinGuard>)> {
        self.state().pins.last().cloned()
    }

    pub(super) fn try_pin(&self, id: u64, pin: Arc<dyn PinGuard>) {
        self.state().pins.push((id, pin));
    }

    pub(super) fn phase(&self) -> Phase {
        self.state().phase.clone()
    }

    pub(super) fn about(&self) -> Option<Arc<About>> {
        self.state().about.clone()
    }

    pub(super) fn proofs(&self) -> Proofs {
        self.state().proofs.clone()
    }

    /// From now on requests go to this worker.
    pub(super) fn connected(&self, link: &Arc<Link>, about: About) {
        let lanes = [(&self.quick, link.sessions() + AHEAD), (&self.slow, SLOW_AHEAD)];
        lanes.iter().for_each(|(lane, limit)| lane.set_limit(*limit));
        let known = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        // RULE: before the first request, and with nobody placing in between.
        let places: Vec<_> = known.iter().map(|(material, id)| (*material, id.clone())).collect();
        places.chunks(PLACES).for_each(|places| link.send(&ToWorker::Place(places.to_vec())));
        self.link.store(Some(Arc::clone(link)));
        drop(known);
        self.state().found(link.number, About { isolation: self.isolation.clone(), ..about });
        if link.has_ended() {
            // Its end came before it was known here.
            self.disconnected(link, &Fault::Ended);
        }
        self.pump(false);
        self.pump(true);
    }

    fn disconnected(&self, link: &Link, fault: &Fault) {
        let current = self.link.load_full().filter(|current| current.number == link.number);
        if current.is_none() {
            return;
        }
        self.link.store(None);
        self.state().lost(fault);
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// A try to connect failed.
    pub(super) fn failed(&self, error: &TokenError) {
        self.state().failed(error);
    }

    /// Nothing is waited for: those that wait are told so.
    pub(super) fn down(&self, error: &TokenError) {
        self.state().phase = Phase::Down(error.clone());
        for pending in self.quick.drain().into_iter().chain(self.slow.drain()) {
            pending.answer(Err(error.clone()));
        }
    }

    pub(super) fn starting(&self) {
        self.state().phase = Phase::Starting;
    }

    pub(super) fn closed(&self) {
        self.state().phase = Phase::Closed;
        for pending in self.quick.close().into_iter().chain(self.slow.close()) {
            pending.answer(Err(closing()));
        }
    }

    fn tell(&self, event: Event) {
        // Nobody listens where the token was closed.
        let _ = self.events.send(event);
    }

    fn log_in(&self, link: &Arc<Link>, ask: LoginAsk) -> Result<(), Fault> {
        let pin = |id: u64| {
            let known = self.state().pins.iter().find(|(known, _)| *known == id).map(|(_, pin)| Arc::clone(pin));
            known.filter(|_| link.may_log_in()).ok_or(Fault::Mismatch("a login that nobody asked for"))
        };
        let no_thread = |error: std::io::Error| Fault::Broken(error.into());
        let mut current = link.login.lock().unwrap_or_else(PoisonError::into_inner);
        match ask {
            LoginAsk::Refuse { guard, serial } => login::refuse(link, pin(guard)?, serial).map_err(no_thread)?,
            LoginAsk::Begin { guard, serial } => {
                *current = Some(login::begin(link, pin(guard)?, serial).map_err(no_thread)?);
            }
            answer @ (LoginAsk::Flags(_) | LoginAsk::Verdict(_)) => {
                let known = current.as_ref().ok_or(Fault::Mismatch("a login that nobody asked for"))?;
                // A login that is over wants no more answers.
                let _ = known.send(answer);
            }
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hub for Core {
    fn received(&self, link: &Arc<Link>, message: FromWorker) -> Result<(), Fault> {
        match message {
            FromWorker::Answer { id, generation, subject, result } => {
                let sent = link.answered(id, generation, subject)?;
                let tells = match &result {
                    // The token may be down,
                    Err(error) => matches!(error.class, ErrorClass::Context | ErrorClass::Operator),
                    // or up again: who was answered finds the service ready.
                    Ok(_) => link.is_ill(),
                };
                if tells {
                    link.ping();
                }
                let (heavy, slow) = (sent.pending.heavy(), sent.slow);
                sent.pending.answer(result.map(|answer| stamped(link, answer)));
                self.lane(slow).done(heavy);
                self.pump(slow);
            }
            FromWorker::Pong { number, health } => {
                let well = health.as_ref().is_none_or(|health| health.status == Status::Ready);
                link.pong(number, well)?;
                if self.link.load().as_ref().is_some_and(|current| current.number == link.number) {
                    let mut state = self.state();
                    let mut health = health;
                    let changes = health.as_mut().map(|health| std::mem::take(&mut health.changes));
                    changes.into_iter().flatten().for_each(|change| state.happened(change));
                    if let Some(health) = &mut health {
                        state.proofs = std::mem::take(&mut health.proofs);
                    }
                    state.health = health;
                }
            }
            FromWorker::Login(ask) => self.log_in(link, ask)?,
            FromWorker::Opened { generation, about, workers } => {
                link.opened(generation, workers)?;
                self.tell(Event::Opened { number: link.number, about });
            }
            FromWorker::OpenFailed { generation, error } => {
                link.opened(generation, 0)?;
                self.tell(Event::OpenFailed { number: link.number, error });
            }
            FromWorker::PinChanged { id, result } => {
                let known = self.changes.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                let known = known.ok_or(Fault::Mismatch("a change of the PIN that nobody asked for"))?;
                // The one who asked may have left at the deadline; the PIN is settled then as not changed.
                let _ = known.send(result);
            }
            FromWorker::Told { .. } => return Err(Fault::Mismatch("a question that nobody asked")),
        }
        Ok(())
    }

    fn ended(&self, link: &Link, fault: Fault, left: Vec<Sent>) {
        self.disconnected(link, &fault);
        let error = fault.error();
        let open: Vec<&Sent> = left.iter().collect();
        let in_sessions =
            Link::in_sessions(&open.iter().copied().filter(|sent| !sent.slow).collect::<Vec<_>>(), link.sessions());
        let now = Instant::now();
        let mut before = 0;
        for sent in left {
            self.lane(sent.slow).done(sent.pending.heavy());
            before += usize::from(!sent.slow);
            let innocent = match &fault {
                Fault::Ended => before > in_sessions,
                Fault::Hung(_) => !sent.is_overdue(now) && before > in_sessions,
                Fault::Mismatch(_) | Fault::Broken(_) | Fault::Closing => false,
            };
            if innocent && !sent.slow && !sent.pending.repeated && !sent.pending.request.changes() {
                self.again(Pending { repeated: true, ..sent.pending }, false);
            } else {
                sent.pending.answer(Err(error.clone()));
            }
        }
        self.tell(Event::Ended { number: link.number, error });
    }
}

/// Handles of objects are of one worker: those of another are answered here.
fn of_this_worker(link: &Link, mut pending: Pending) -> Option<Pending> {
    if let Request::ReadSlice { epoch, .. } = &mut pending.request {
        if *epoch >> EPOCH_BITS != link.number {
            pending.answer(Ok(Answer::Slice(None)));
            return None;
        }
        *epoch &= (1 << EPOCH_BITS) - 1;
    }
    Some(pending)
}

fn stamped(link: &Link, answer: Answer) -> Answer {
    match answer {
        Answer::Listed { epoch, objects } => {
            Answer::Listed { epoch: (link.number << EPOCH_BITS) | (epoch & ((1 << EPOCH_BITS) - 1)), objects }
        }
        answer => answer,
    }
}

/// Whether only a person can help.
pub(super) fn needs_a_person(error: &TokenError) -> bool {
    matches!(error.open_failure(), OpenFailure::PinIncorrect | OpenFailure::PinLocked | OpenFailure::PinNotInitialised)
}
