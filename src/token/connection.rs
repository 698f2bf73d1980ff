//! The connection to a token in this process: its threads, its queues, and the way of a job through them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use cryptoki_sys as sys;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::breaker::{Breaker, Health};
use super::call::About;
use super::error::Counters;
use super::guard::{HeldPin, PinGuard};
use super::handles::{Handles, Proofs};
use super::keeper::{Keeper, is_another_pin};
use super::keygen::{Keygen, Mend, Task, TaskTicket};
use super::local::Local;
use super::marks::Marks;
use super::module::{Module, Selected, expect, refuse_login};
use super::names::Names;
use super::pool::Pool;
use super::probe::probe;
use super::queue::{FairQueue, Pushed};
use super::renewal::{self, Why, remembers_pins};
use super::report::enumerate;
use super::seat::{Seat, SlotNow};
use super::shared::Shared;
use super::watchdog::{self, Watchdog};
use super::worker::{Need, Operation, Outcome, Reply, Ticket, Work, Worker};
use super::{CallContext, Done, ErrorClass, Isolation, OpenFailure, Settings, Status, SystemKey, TokenError, rv};
use crate::secret::SecretString;

/// Jobs that may wait for the key generation thread.
const KEYGEN_QUEUE: usize = 64;
/// Keeper, key generation, and one to spare.
const SESSIONS_BESIDE_WORKERS: u64 = 3;
/// How long `close` waits for calls that run.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    threads: Arc<Threads>,
    /// Of rejected PINs.
    pub(super) marks: Marks,
}

#[derive(Default)]
struct Threads(Mutex<Vec<JoinHandle<()>>>);

impl Threads {
    fn spawn(&self, name: String, life: impl FnOnce() + Send + 'static) -> std::io::Result<Thread> {
        let handle = std::thread::Builder::new().name(name).spawn(life)?;
        let thread = handle.thread().clone();
        self.list().push(handle);
        Ok(thread)
    }

    fn list(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For `/metrics`.
#[derive(Debug, Clone, Default)]
pub struct Gauges {
    /// Jobs that wait for a session worker.
    pub queued: usize,
    /// Jobs that wait for the key generation thread.
    pub keygen_queued: usize,
    pub workers: usize,
    pub sessions_replaced: u64,
    /// Errors by class.
    pub errors: Vec<(&'static str, u64)>,
    /// Objects that the enumeration could not make sense of.
    pub debris: usize,
    /// Keys with several objects of one class.
    pub duplicates: usize,
    pub health: Health,
}

impl Local {
    /// Loads the module (once per process), selects the token, logs the keeper session in (one try), starts the session
    /// workers, enumerates the objects, runs self-test and probe. Blocking.
    ///
    /// Several tokens of one module or of several may be connected at a time, each with its own login.
    pub fn open(settings: Settings, pin: SecretString) -> Result<Local, TokenError> {
        let guard = HeldPin::new(pin, Marks::at(&settings.pin_marks));
        Self::open_proven(settings, Arc::new(guard), Proofs::default())
    }

    /// The same where somebody else has the PIN, and in the place of a connection that has ended. RULE: the bridge's own keys
    /// are what they were for that one: a serial number and labels are easily another token's.
    pub(super) fn open_proven(
        settings: Settings,
        guard: Arc<dyn PinGuard>,
        proofs: Proofs,
    ) -> Result<Local, TokenError> {
        let names = Names::of(&settings.profile)?;
        let module = Module::load(&settings.module)?;
        // Libraries remember the slots that they saw: a token that was away is seen after C_Initialize only.
        if module.doubted.swap(false, Ordering::Relaxed)
            && module.connected().iter().all(|token| token.status() != Status::Ready)
        {
            renewal::renew(module, None, Why::Recovery)?;
        }
        Self::connect(module, names, settings, guard, proofs).inspect_err(|error| {
            if error.class == ErrorClass::Context {
                module.doubted.store(true, Ordering::Relaxed);
            }
        })
    }

    fn connect(
        module: &'static Module,
        names: Names,
        settings: Settings,
        guard: Arc<dyn PinGuard>,
        proofs: Proofs,
    ) -> Result<Local, TokenError> {
        let selected = select(module, &settings)?;
        if remembers_pins(&selected.info, &settings.profile) && is_another_pin(&selected.info.serial, &*guard) {
            renewal::renew(module, None, Why::Pin)?;
        }
        let _no_renewal = module.gate.read().unwrap_or_else(PoisonError::into_inner);
        let selected = select(module, &settings)?;
        let keeper = Keeper::log_in(module, &selected, guard)
            .map_err(|error| hinted(error, settings.profile.pin_hint.as_deref()))?;
        one_instance(module, &keeper, selected.slot.id())?;
        let (capabilities, iv) = probe(module, &selected, &settings.profile)?;

        let replaced = Arc::new(AtomicU64::new(0));
        let slot = SlotNow::new(selected.slot);
        let mut seat = Seat::new(module, slot.clone(), iv, Arc::clone(&replaced));
        let list =
            |seat: &mut Seat| enumerate(seat, &names).map_err(|error| error.into_error("the objects cannot be listed"));
        let mut table = list(&mut seat)?;
        if !table.has_system() {
            // A token without keys of the bridge, or a search that failed without saying so.
            table = list(&mut seat)?;
        }
        let handles = Handles::proven(proofs);
        handles.replace(table);

        let remembers_pins = remembers_pins(&selected.info, &settings.profile);
        let workers = worker_count(settings.workers, capabilities.max_sessions);
        let shared = Arc::new(Shared {
            module,
            slot,
            serial: Arc::from(selected.info.serial.as_str()),
            about: Arc::new(About {
                info: selected.info,
                capabilities: Arc::new(capabilities),
                iv_len: iv.iv_len(),
                system_labels: SystemKey::ALL.map(|key| names.system(key)),
                module: settings.module.clone(),
                isolation: Isolation::InProcess,
                pin_hint: settings.profile.pin_hint.clone(),
                notes: settings.profile.notes.clone(),
            }),
            iv,
            names,
            ladder: settings.profile.ladder(),
            remembers_pins,
            handles,
            errors: Counters::default(),
            replaced,
            // RULE: RSA private operations leave a worker to the others.
            queue: FairQueue::new(settings.queue, workers.saturating_sub(1).max(1)),
            keygen: FairQueue::new(KEYGEN_QUEUE, 1),
            breaker: Breaker::new(settings.retry),
            pool: Pool::new(workers),
            watchdog: Watchdog::new(settings.hang_grace, settings.generate_deadline),
            generate_deadline: settings.generate_deadline,
            rest: settings.retry.longest,
            succeeded: AtomicU64::new(0),
            started: Instant::now(),
            doom: OnceLock::new(),
        });
        module.register(&shared);
        // From here on a failure drops the connection, which ends the threads that run.
        let connection =
            Connection { shared: Arc::clone(&shared), threads: Arc::default(), marks: Marks::at(settings.pin_marks) };
        let mut keygen = Keygen::new(Arc::clone(&shared), seat, keeper);
        // Now, while the handles are as fresh as they can be.
        keygen.remember_system_keys()?;
        connection.spawn("p11-keygen".to_owned(), move || keygen.serve())?;
        for number in 0..workers {
            let worker = Worker::new(Arc::clone(&shared));
            connection.spawn(format!("p11-worker-{number}"), move || worker.serve())?;
        }
        connection.watch(workers)?;
        Ok(Local(Arc::new(connection)))
    }

    /// Stops the workers and closes the sessions; the module is left loaded. Blocks until running calls end, for a few
    /// seconds at most.
    pub(super) fn end(&self) {
        self.0.stop();
        let threads = std::mem::take(&mut *self.0.threads.list());
        let patience = Instant::now() + CLOSE_PATIENCE;
        for thread in threads {
            // A thread that hangs in the module cannot be ended: it is left behind.
            while !thread.is_finished() && Instant::now() < patience {
                std::thread::sleep(Duration::from_millis(2));
            }
            if thread.is_finished() {
                let _ = thread.join();
            }
        }
    }

    pub(super) fn slow_deadline(&self) -> Instant {
        Instant::now() + self.0.shared.generate_deadline
    }

    /// Sends an operation to the session workers, and once more after a lost handle or login was mended.
    pub(super) async fn call<O: Operation>(
        &self,
        ctx: &CallContext,
        operation: O,
    ) -> Result<Done<O::Output>, TokenError> {
        self.try_call(ctx, operation).await.inspect_err(|error| self.0.shared.errors.count(error.class))
    }

    async fn try_call<O: Operation>(&self, ctx: &CallContext, operation: O) -> Result<Done<O::Output>, TokenError> {
        match self.visit_any(ctx, operation).await? {
            Visited::Done(done) => Ok(done),
            Visited::Mend(operation, need) => self.mend_and_call(ctx, operation, need).await,
        }
    }

    async fn mend_and_call<O: Operation>(
        &self,
        ctx: &CallContext,
        mut operation: O,
        mut need: Need,
    ) -> Result<Done<O::Output>, TokenError> {
        let mut forgotten = false;
        loop {
            let key = operation.key().map(|(key, class)| (key.clone(), class));
            self.try_task(ctx, ctx.deadline, Mend { key, need }).await?;
            match self.visit_any(ctx, operation).await? {
                Visited::Done(done) => return Ok(done),
                // Not the token's doing: somebody else's login was renewed meanwhile, and all handles were forgotten.
                Visited::Mend(again, nothing_known @ Need::Find { lost: None }) if !forgotten => {
                    (forgotten, operation, need) = (true, again, nothing_known);
                }
                Visited::Mend(_, need) => {
                    let error = TokenError::own(
                        ErrorClass::Context,
                        O::NAME,
                        format!("the token lost what it had just given back ({need:?})"),
                    );
                    self.0.shared.note(&error);
                    return Err(error);
                }
            }
        }
    }

    /// Visits workers until one has room for the operation.
    async fn visit_any<O: Operation>(&self, ctx: &CallContext, mut operation: O) -> Result<Visited<O>, TokenError> {
        loop {
            match self.visit(ctx, operation).await? {
                Outcome::Done(done) => return Ok(Visited::Done(done)),
                Outcome::Failed(error) => return Err(error),
                Outcome::Mend(operation, need) => return Ok(Visited::Mend(operation, need)),
                // Each time a worker less is there, and the last one answers; nobody waits past the deadline.
                Outcome::Crowded(_, error) if Instant::now() >= ctx.deadline => return Err(error),
                Outcome::Crowded(again, _) => operation = again,
            }
        }
    }

    /// One visit to a session worker.
    async fn visit<O: Operation>(&self, ctx: &CallContext, operation: O) -> Result<Outcome<O>, TokenError> {
        if let Some(refusal) = self.0.shared.breaker.refusal() {
            return Err(refusal);
        }
        let heavy = operation.heavy();
        let (reply, answer) = oneshot::channel();
        let ticket = Ticket { operation, request_id: Arc::clone(&ctx.request_id), reply: Reply::Waiting(reply) };
        let work = Work { deadline: ctx.deadline, job: Box::new(ticket) };
        push(&self.0.shared.queue, ctx, heavy, work)?;
        wait(ctx.deadline, O::NAME, answer).await
    }

    /// Sends an operation to the session workers as `call` does; the answer is taken on the session's own thread, and no deadline is
    /// kept for it once it runs. What has to be mended first goes on in `runtime`.
    pub(super) fn post_operation<O: Operation>(
        &self,
        runtime: &Handle,
        ctx: CallContext,
        operation: O,
        take: impl FnOnce(Result<Done<O::Output>, TokenError>) + Send + 'static,
    ) {
        if let Some(refusal) = self.0.shared.breaker.refusal() {
            return take(Err(refusal));
        }
        let (principal, deadline, heavy) = (Arc::clone(&ctx.principal), ctx.deadline, operation.heavy());
        let (local, runtime) = (self.clone(), runtime.clone());
        let request_id = Arc::clone(&ctx.request_id);
        let reply = Reply::Direct(Box::new(move |outcome| match outcome {
            Outcome::Done(done) => take(Ok(done)),
            Outcome::Failed(error) => take(Err(error)),
            Outcome::Mend(operation, need) => {
                runtime.spawn(async move { take(local.mend_and_call(&ctx, operation, need).await) });
            }
            Outcome::Crowded(operation, _) => {
                runtime.spawn(async move { take(local.try_call(&ctx, operation).await) });
            }
        }));
        let job = Box::new(Ticket { operation, request_id, reply });
        match self.0.shared.queue.push(&principal, heavy, Work { deadline, job }) {
            Pushed::Accepted => {}
            Pushed::Displaced(work) | Pushed::Full(work) => work.job.refuse(full()),
            Pushed::Closed(work) => work.job.refuse(closing()),
        }
    }

    pub(super) async fn task<T: Task>(
        &self,
        ctx: &CallContext,
        deadline: Instant,
        task: T,
    ) -> Result<T::Output, TokenError> {
        self.try_task(ctx, deadline, task).await.inspect_err(|error| self.0.shared.errors.count(error.class))
    }

    async fn try_task<T: Task>(&self, ctx: &CallContext, deadline: Instant, task: T) -> Result<T::Output, TokenError> {
        if !T::WHILE_DOWN
            && let Some(refusal) = self.0.shared.breaker.refusal()
        {
            return Err(refusal);
        }
        let (reply, answer) = oneshot::channel();
        let ticket = TaskTicket { task, request_id: Arc::clone(&ctx.request_id), reply };
        push(&self.0.shared.keygen, ctx, false, Work { deadline, job: Box::new(ticket) })?;
        wait(deadline, T::NAME, answer).await?
    }
}

enum Visited<O: Operation> {
    Done(Done<O::Output>),
    Mend(O, Need),
}

impl Connection {
    fn spawn(&self, name: String, life: impl FnOnce() + Send + 'static) -> Result<(), TokenError> {
        self.threads.spawn(name, life).map(|_| ()).map_err(|error| {
            TokenError::own(ErrorClass::Capacity, "thread", format!("a token thread does not start: {error}"))
        })
    }

    /// The thread that looks whether calls come back.
    fn watch(&self, workers: usize) -> Result<(), TokenError> {
        let (shared, threads) = (Arc::clone(&self.shared), Arc::downgrade(&self.threads));
        self.spawn("p11-watch".to_owned(), move || {
            while !shared.queue.is_closed() {
                std::thread::park_timeout(shared.watchdog.tick());
                watchdog::look(&shared, workers, &mut |worker| {
                    let Some(threads) = threads.upgrade() else { return };
                    if let Err(error) = threads.spawn("p11-worker".to_owned(), move || worker.serve()) {
                        tracing::error!(%error, "a token thread does not start");
                    }
                });
            }
        })
    }

    /// No more jobs; those that waited are refused.
    fn stop(&self) {
        self.shared.queue.close().into_iter().for_each(|work| work.job.refuse(closing()));
        self.shared.keygen.close().into_iter().for_each(|work| work.job.refuse(closing()));
        for thread in self.threads.list().iter() {
            thread.thread().unpark();
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.stop();
    }
}

fn push<W>(queue: &FairQueue<Work<W>>, ctx: &CallContext, heavy: bool, work: Work<W>) -> Result<(), TokenError> {
    match queue.push(&ctx.principal, heavy, work) {
        Pushed::Accepted => Ok(()),
        Pushed::Displaced(victim) => {
            victim.job.refuse(full());
            Ok(())
        }
        Pushed::Full(_) => Err(full()),
        Pushed::Closed(_) => Err(closing()),
    }
}

/// Waits no longer than the deadline: a PKCS#11 call has no timeout, and a hung one must not hang its caller.
async fn wait<T>(deadline: Instant, name: &'static str, answer: oneshot::Receiver<T>) -> Result<T, TokenError> {
    match tokio::time::timeout_at(deadline.into(), answer).await {
        Ok(Ok(outcome)) => Ok(outcome),
        Ok(Err(_)) => Err(TokenError::own(ErrorClass::Context, name, "the token worker ended without an answer")),
        Err(_) => Err(TokenError::own(ErrorClass::Deadline, name, "the deadline passed")),
    }
}

fn full() -> TokenError {
    TokenError::own(ErrorClass::Capacity, "queue", "the queue is full")
}

fn closing() -> TokenError {
    TokenError::own(ErrorClass::Context, "queue", "the token is being closed")
}

/// The token, if a login may be tried on it.
fn select(module: &'static Module, settings: &Settings) -> Result<Selected, TokenError> {
    let _no_renewal = module.gate.read().unwrap_or_else(PoisonError::into_inner);
    let selected = module.select(&settings.selector)?;
    expect(&selected.info, settings.expect_serial.as_deref())?;
    refuse_login(&selected.info, &selected.limits)?;
    Ok(selected)
}

/// Whoever wrote a wrong PIN is told what one looks like on this token.
pub(super) fn hinted(error: TokenError, hint: Option<&str>) -> TokenError {
    match hint {
        Some(hint) if error.open_failure() == OpenFailure::PinIncorrect => {
            TokenError { detail: format!("{}; the profile says of it: {hint}", error.detail), ..error }
        }
        _ => error,
    }
}

/// The hot path uses a function list of its own: it must be the same instance of the module.
fn one_instance(module: &Module, keeper: &Keeper, slot: u64) -> Result<(), TokenError> {
    // Once more where the other list knows the session: then it was a failure that passed.
    for _ in 0..2 {
        match keeper.session().map(|session| module.functions.session_slot(session)) {
            Some(Ok(found)) if found == slot => return Ok(()),
            Some(Err(error)) => {
                tracing::info!(rv = %rv::said(error.rv), "the module does not know the keeper session");
                // RULE: a token that fails is not a library that cannot be used.
                let failed = "the keeper session cannot be looked at";
                keeper.alive().map_err(|error| error.into_error(failed))?;
                if !matches!(error.rv, sys::CKR_SESSION_HANDLE_INVALID | sys::CKR_CRYPTOKI_NOT_INITIALIZED) {
                    return Err(error.into_error(failed));
                }
            }
            Some(Ok(_)) | None => break,
        }
    }
    Err(TokenError::own(
        ErrorClass::Unsupported,
        "C_GetSessionInfo",
        "the module gives every caller an instance of its own: a session opened through one function list is not known to \
         the other",
    ))
}

fn worker_count(wanted: usize, max_sessions: Option<u64>) -> usize {
    // 0 is how tokens say "no limit", and profiles too.
    let room = match max_sessions {
        None | Some(0) => usize::MAX,
        Some(limit) => usize::try_from(limit.saturating_sub(SESSIONS_BESIDE_WORKERS)).unwrap_or(usize::MAX),
    };
    wanted.min(room).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_leave_room_for_the_other_sessions() {
        assert_eq!(worker_count(4, None), 4);
        assert_eq!(worker_count(4, Some(0)), 4);
        assert_eq!(worker_count(16, Some(16)), 13);
        assert_eq!(worker_count(4, Some(2)), 1);
        assert_eq!(worker_count(0, None), 1);
    }
}
