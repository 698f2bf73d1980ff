//! Logins across the socket: the service has the PIN and the host's marks, the worker the session. The worker asks, does what it
//! is told, and keeps no PIN.

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use super::child::say;
use super::link::Link;
use super::outlet::Outlet;
use crate::secret::SecretString;
use crate::token::frame::{FromWorker, Guard, LoginAsk, LoginStep, ToWorker};
use crate::token::{ErrorClass, Login, LoginVerdict, PinGuard, PinTag, TokenError, TokenInfo};

/// C_Login may hang; the worker is ended long before where it answers nothing at all.
const PATIENCE: Duration = Duration::from_secs(120);

/// The worker's end: one login at a time.
pub(super) struct Desk {
    outlet: Arc<Outlet>,
    alone: Mutex<()>,
    steps: Mutex<Option<mpsc::Sender<LoginStep>>>,
}

impl Desk {
    pub(super) fn new(outlet: Arc<Outlet>) -> Desk {
        Desk { outlet, alone: Mutex::new(()), steps: Mutex::new(None) }
    }

    /// A step that nobody waits for is dropped, and wiped.
    pub(super) fn receive(&self, step: LoginStep) {
        if let Some(steps) = &*self.steps.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = steps.send(step);
        }
    }

    fn ask(&self, ask: LoginAsk, mut login: Option<&mut dyn Login>) -> Result<(), TokenError> {
        let _alone = self.alone.lock().unwrap_or_else(PoisonError::into_inner);
        let (sender, steps) = mpsc::channel();
        *self.steps.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        say(&self.outlet, &FromWorker::Login(ask));
        loop {
            // The process ends with its socket: no limit is needed here.
            let answer = match (steps.recv(), login.as_deref_mut()) {
                (Ok(LoginStep::End(result)), _) => return result,
                (Ok(LoginStep::Flags), Some(login)) => LoginAsk::Flags(login.flags()),
                (Ok(LoginStep::Try(pin)), Some(login)) => LoginAsk::Verdict(login.log_in(&pin)),
                _ => return Err(lost("the login was not answered")),
            };
            say(&self.outlet, &FromWorker::Login(answer));
        }
    }
}

/// A PIN that the service holds.
pub(super) struct FarPin {
    guard: Guard,
    desk: Arc<Desk>,
}

impl FarPin {
    pub(super) fn new(guard: Guard, desk: Arc<Desk>) -> FarPin {
        FarPin { guard, desk }
    }
}

impl PinGuard for FarPin {
    fn refuse(&self, serial: &str) -> Result<(), TokenError> {
        self.desk.ask(LoginAsk::Refuse { guard: self.guard.id, serial: serial.to_owned() }, None)
    }

    fn attempt(&self, serial: &str, login: &mut dyn Login) -> Result<(), TokenError> {
        self.desk.ask(LoginAsk::Begin { guard: self.guard.id, serial: serial.to_owned() }, Some(login))
    }

    fn tag(&self) -> PinTag {
        self.guard.tag
    }
}

/// The service's end of one login, on a thread of its own.
pub(super) struct FarLogin {
    link: Arc<Link>,
    answers: mpsc::Receiver<LoginAsk>,
}

/// Begins a login that a worker asks for. What the worker says next of it goes to the sender.
pub(super) fn begin(
    link: &Arc<Link>,
    pin: Arc<dyn PinGuard>,
    serial: String,
) -> std::io::Result<mpsc::Sender<LoginAsk>> {
    let (sender, answers) = mpsc::channel();
    let mut login = FarLogin { link: Arc::clone(link), answers };
    std::thread::Builder::new().name("token-login".to_owned()).spawn(move || {
        let result = pin.attempt(&serial, &mut login);
        login.link.send(&ToWorker::Login(LoginStep::End(result)));
    })?;
    Ok(sender)
}

/// Whether a login would be refused at once. Marks are files: not on the thread that reads the socket.
pub(super) fn refuse(link: &Arc<Link>, pin: Arc<dyn PinGuard>, serial: String) -> std::io::Result<()> {
    let link = Arc::clone(link);
    std::thread::Builder::new().name("token-login".to_owned()).spawn(move || {
        link.send(&ToWorker::Login(LoginStep::End(pin.refuse(&serial))));
    })?;
    Ok(())
}

impl FarLogin {
    fn step(&self, step: LoginStep) -> Option<LoginAsk> {
        self.link.send(&ToWorker::Login(step));
        self.answers.recv_timeout(PATIENCE).ok()
    }
}

impl Login for FarLogin {
    fn flags(&mut self) -> Result<Option<TokenInfo>, TokenError> {
        match self.step(LoginStep::Flags) {
            Some(LoginAsk::Flags(flags)) => flags,
            _ => Err(lost("the worker process ended before the login")),
        }
    }

    fn log_in(&mut self, pin: &SecretString) -> LoginVerdict {
        match self.step(LoginStep::Try(pin.clone())) {
            Some(LoginAsk::Verdict(verdict)) => verdict,
            // RULE: where no answer comes back nobody knows whether the token looked at the PIN.
            _ => LoginVerdict::Other(lost("the worker process ended during the login")),
        }
    }
}

fn lost(detail: &str) -> TokenError {
    TokenError::own(ErrorClass::Context, "C_Login", detail)
}
