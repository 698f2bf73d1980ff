//! The worker process: the token's connection as it is without isolation, behind a socket. It ends with its socket, keeps no
//! PIN, and has nothing to lose.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::login::{Desk, FarPin};
use super::outlet::Outlet;
use crate::token::call::{Backend, Request};
use crate::token::frame::{
    FROM_WORKER, FrameError, FromWorker, Guard, Health, Inbox, Question, Subject, TO_WORKER, ToWorker, Told, VERSION,
    encode,
};
use crate::token::handles::Proofs;
use crate::token::{
    CallContext, ErrorClass, Isolation, Local, Settings, TokenError, certificate, exit_now, look, module, slots,
};

/// A worker process whose socket is its standard input, as the service starts it.
pub fn worker_on_stdin() -> ! {
    let socket = std::io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from);
    let socket = match socket.and_then(|socket| socket.peer_addr().map(|_| socket)) {
        Ok(socket) => socket,
        Err(_) => {
            eprintln!("error: token-worker is started by the service itself, with a socket as its standard input");
            exit_now(64);
        }
    };
    // Nothing else reads from or writes to the socket.
    if let Ok(nothing) = std::fs::File::open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(&nothing);
    }
    // What `ps` and `top` show: started through /proc/self/exe, it would be `exe`.
    let _ = std::fs::write("/proc/self/comm", NAME);
    // The service may have ended before; then the socket says so.
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    worker_main(socket)
}

/// Serves one token on this socket until it ends, and ends the process then. The environment of the vendor's library has to be
/// set. No module may be loaded yet: one process serves one token.
pub fn worker_main(socket: UnixStream) -> ! {
    let _ = rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let code = match serve(socket) {
        // The service has gone.
        Ok(()) | Err(FrameError::Ended) => 0,
        Err(error) => {
            tracing::error!(%error, "the token's worker process ends");
            70
        }
    };
    // Exit handlers of a loaded module may crash.
    exit_now(code)
}

pub(super) const NAME: &str = env!("CARGO_PKG_NAME");

struct Child {
    outlet: Arc<Outlet>,
    desk: Arc<Desk>,
    runtime: tokio::runtime::Runtime,
    connected: OnceLock<Connected>,
    everybody: Arc<str>,
}

struct Connected {
    generation: u64,
    local: Local,
}

fn serve(socket: UnixStream) -> Result<(), FrameError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.spawn(ignore_signals());
    let mut source = socket.try_clone()?;
    let outlet = Arc::new(Outlet::blocking(socket));
    let desk = Arc::new(Desk::new(Arc::clone(&outlet)));
    let child = Arc::new(Child { outlet, desk, runtime, connected: OnceLock::new(), everybody: "service".into() });
    let mut inbox = Inbox::new(TO_WORKER);
    // RULE: before any request: one of another version could be taken for another operation.
    if !matches!(inbox.next(&mut source)?, ToWorker::Hello(version) if version == VERSION) {
        tracing::error!(VERSION, "the service is of another version than its token's worker process: start it again");
        return Err(FrameError::Malformed);
    }
    loop {
        child.receive(inbox.next(&mut source)?)?;
    }
}

/// What ends the service is told to all its processes by some; requests that run are answered first.
async fn ignore_signals() {
    let mut kept = Vec::new();
    for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup(), SignalKind::user_defined1()] {
        kept.extend(signal(kind));
    }
    std::future::pending::<()>().await;
}

impl Child {
    fn receive(self: &Arc<Child>, message: ToWorker) -> Result<(), FrameError> {
        match message {
            ToWorker::Hello(_) => return Err(FrameError::Malformed),
            ToWorker::Load { module } => preload(&module),
            ToWorker::Open { generation, settings, guard, proofs } => {
                let child = Arc::clone(self);
                thread("token-open", move || child.open(generation, *settings, guard, proofs))?;
            }
            ToWorker::Ask { id, question } => {
                let child = Arc::clone(self);
                thread("token-ask", move || child.say(&FromWorker::Told { id, result: tell(question) }))?;
            }
            ToWorker::Call { id, generation, micros, request_id, request } => {
                let connected = self.connected.get().filter(|connected| connected.generation == generation);
                let local = connected.ok_or(FrameError::Malformed)?.local.clone();
                // RULE: first come, first served: the service was fair to its principals before.
                let principal = Arc::clone(&self.everybody);
                let ctx =
                    CallContext { principal, deadline: Instant::now() + Duration::from_micros(micros), request_id };
                self.call(id, generation, &local, ctx, request);
            }
            ToWorker::Login(step) => self.desk.receive(step),
            ToWorker::ChangePin { id, guard } => {
                let local = self.connected()?.local.clone();
                let pin = Arc::new(FarPin::new(guard, Arc::clone(&self.desk)));
                let child = Arc::clone(self);
                self.runtime.spawn(async move {
                    let result = local.change_guard(pin).await;
                    child.say(&FromWorker::PinChanged { id, result });
                });
            }
            ToWorker::Place(places) => self.connected()?.local.place(places),
            ToWorker::GiveUp(material) => self.connected()?.local.give_up(material),
            ToWorker::Ping(number) => self.say(&FromWorker::Pong { number, health: self.health() }),
            ToWorker::Close => {
                let child = Arc::clone(self);
                thread("token-close", move || {
                    if let Some(connected) = child.connected.get() {
                        connected.local.close();
                    }
                    exit_now(0);
                })?;
            }
        }
        Ok(())
    }

    fn connected(&self) -> Result<&Connected, FrameError> {
        self.connected.get().ok_or(FrameError::Malformed)
    }

    fn open(&self, generation: u64, settings: Settings, guard: Guard, proofs: Proofs) {
        let workers = |local: &Local| local.gauges().workers;
        let guard = Arc::new(FarPin::new(guard, Arc::clone(&self.desk)));
        match Local::open_proven(settings, guard, proofs) {
            Ok(local) => {
                let opened = FromWorker::Opened {
                    generation,
                    about: Box::new((*local.about()).clone()),
                    workers: workers(&local),
                };
                if self.connected.set(Connected { generation, local }).is_ok() {
                    self.say(&opened);
                }
            }
            Err(error) => self.say(&FromWorker::OpenFailed { generation, error }),
        }
    }

    fn call(self: &Arc<Child>, id: u64, generation: u64, local: &Local, ctx: CallContext, request: Request) {
        let child = Arc::clone(self);
        let subject = Subject::of(&request);
        local.post(self.runtime.handle(), ctx, request, move |result| match result {
            // Its thread hangs in the module: the service sees that no answer comes. What has not been with a session is answered.
            Err(error)
                if error.class == ErrorClass::Deadline && !matches!(error.function, "queue" | "mend" | "token") =>
            {
                tracing::warn!(%error, id, "a call does not return");
            }
            result => child.say(&FromWorker::Answer { id, generation, subject, result }),
        });
    }

    fn health(&self) -> Option<Health> {
        let local = &self.connected.get()?.local;
        if let Some(reason) = local.doom() {
            tracing::error!(reason, "the token's worker process ends");
            exit_now(70);
        }
        let gauges = local.gauges();
        Some(Health {
            status: local.status(),
            queued: gauges.queued,
            keygen_queued: gauges.keygen_queued,
            sessions_replaced: gauges.sessions_replaced,
            debris: gauges.debris,
            duplicates: gauges.duplicates,
            changes: local.changes(),
            proofs: local.0.shared.handles.all_proofs(),
            recovery: gauges.health,
        })
    }

    fn say(&self, message: &FromWorker) {
        say(&self.outlet, message);
    }
}

/// A worker that cannot be heard has no reason to live.
pub(super) fn say<T: Serialize>(outlet: &Outlet, message: &T) {
    let sent = encode(message, FROM_WORKER).and_then(|frame| Ok(outlet.send(frame)?));
    if let Err(error) = sent {
        tracing::error!(%error, "the token's worker process cannot answer and ends");
        exit_now(74);
    }
}

fn preload(path: &Path) {
    // What is wrong with it is told when the token is opened.
    if let Err(error) = module::preload(path) {
        tracing::debug!(%error, "the module cannot be loaded");
    }
}

const HERE: Isolation = Isolation::InProcess;

fn tell(question: Question) -> Result<Told, TokenError> {
    match question {
        Question::Look { module, selector } => look(&HERE, &module, &selector).map(Told::Looked),
        Question::Certificate { module, selector, label } => {
            certificate(&HERE, &module, &selector, &label).map(Told::Certificate)
        }
        Question::Slots { module } => slots(&HERE, &module).map(Told::Slots),
    }
}

fn thread(name: &str, life: impl FnOnce() + Send + 'static) -> Result<(), FrameError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(life)?;
    Ok(())
}
