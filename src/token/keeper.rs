//! The keeper session: it holds the login of the process and is closed last. Login state belongs to the process and the
//! token, so the other sessions only open.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cryptoki::error::{Error, RvError};
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use cryptoki_sys as sys;

use super::error::CallError;
use super::guard::{Login, LoginVerdict, PinGuard, PinTag};
use super::module::{Module, Selected, refuse_login};
use super::opened::Opened;
use super::{ErrorClass, TokenError, TokenInfo};
use crate::secret::SecretString;

pub(super) struct Keeper {
    module: &'static Module,
    slot: Slot,
    serial: String,
    guard: Arc<dyn PinGuard>,
    session: Option<Opened>,
    /// Its login is counted among `Logins::holders`.
    holds: bool,
    /// What this process knows of logins to the token.
    logins: Arc<Mutex<Logins>>,
}

/// Logins of this process to one token.
#[derive(Default)]
struct Logins {
    /// Keepers that hold the login.
    holders: usize,
    /// The PIN that was tried last.
    tried: Option<PinTag>,
}

/// By serial. The lock of one token is held during its C_Login, which may hang, and that of the list never.
static LOGINS: Mutex<Option<HashMap<String, Arc<Mutex<Logins>>>>> = Mutex::new(None);
static ATTEMPTS: AtomicU64 = AtomicU64::new(0);

/// C_Login calls made by this process.
pub fn login_attempts() -> u64 {
    ATTEMPTS.load(Ordering::Relaxed)
}

fn logins(serial: &str) -> Arc<Mutex<Logins>> {
    let mut list = LOGINS.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(list.get_or_insert_default().entry(serial.to_owned()).or_default())
}

/// Whether this process has tried another PIN than this one on the token before, and will try this one.
pub(super) fn is_another_pin(serial: &str, guard: &dyn PinGuard) -> bool {
    let tried = logins(serial).lock().unwrap_or_else(PoisonError::into_inner).tried;
    tried.is_some_and(|tried| tried != guard.tag()) && guard.refuse(serial).is_ok()
}

impl Keeper {
    /// Opens the session and logs in, with one try.
    pub(super) fn log_in(
        module: &'static Module,
        selected: &Selected,
        guard: Arc<dyn PinGuard>,
    ) -> Result<Keeper, TokenError> {
        let serial = selected.info.serial.clone();
        let logins = logins(&serial);
        let mut keeper = Keeper { module, slot: selected.slot, serial, guard, session: None, holds: false, logins };
        keeper.ensure()?;
        Ok(keeper)
    }

    /// Opens the session and logs in where either was lost. A login makes every handle known before stale.
    pub(super) fn ensure(&mut self) -> Result<(), TokenError> {
        if self.alive().is_ok() {
            return Ok(());
        }
        // Not even a session for a PIN that is not tried.
        self.guard.refuse(&self.serial)?;
        self.open_session()?;
        self.try_login(&*Arc::clone(&self.guard))
    }

    /// Opens the session where it was lost; whether it is logged in is another matter.
    pub(super) fn open_session(&mut self) -> Result<(), TokenError> {
        if self.session().is_none_or(|session| session.get_session_info().is_err()) {
            self.session = None;
            let session = Opened::new(self.module, self.slot)
                .map_err(|error| error.into_error("the keeper session does not open"))?;
            self.session = Some(session);
        }
        Ok(())
    }

    /// Whether the login stands, in one round trip.
    pub(super) fn alive(&self) -> Result<(), CallError> {
        let lost = CallError { function: "C_GetSessionInfo", rv: sys::CKR_SESSION_CLOSED };
        match self.session().ok_or(lost)?.get_session_info() {
            Ok(info) if logged_in(info.session_state()) => Ok(()),
            Ok(_) => Err(CallError { function: "C_GetSessionInfo", rv: sys::CKR_USER_NOT_LOGGED_IN }),
            Err(error) => Err(CallError::from_cryptoki("C_GetSessionInfo", &error)),
        }
    }

    pub(super) fn session(&self) -> Option<&Session> {
        self.session.as_ref().and_then(Opened::live)
    }

    /// The token stands in another slot now.
    pub(super) fn move_to(&mut self, slot: Slot) {
        self.slot = slot;
        self.session = None;
    }

    /// Whether another PIN may be tried: before anything is given up for it.
    pub(super) fn may_try(&self, guard: &dyn PinGuard) -> Result<(), TokenError> {
        let logins = self.logins.lock().unwrap_or_else(PoisonError::into_inner);
        // RULE PKCS#11 v2.40 §5.6 C_Logout: it logs out every session that the application has with the token.
        if logins.holders > usize::from(self.holds) {
            return Err(TokenError::own(
                ErrorClass::Unsupported,
                "C_Logout",
                "another connection of this process uses the login of the token",
            ));
        }
        drop(logins);
        guard.refuse(&self.serial)?;
        flags(self.module, self.slot).map(drop)
    }

    pub(super) fn log_out(&mut self) -> Result<(), TokenError> {
        self.open_session()?;
        match self.session().map(Session::logout) {
            None | Some(Ok(()) | Err(Error::Pkcs11(RvError::UserNotLoggedIn, _))) => {
                self.release();
                Ok(())
            }
            Some(Err(error)) => Err(CallError::from_cryptoki("C_Logout", &error).into_error("the logout failed")),
        }
    }

    /// One try with another PIN; the one that works is used from then on.
    pub(super) fn log_in_with(&mut self, guard: Arc<dyn PinGuard>) -> Result<(), TokenError> {
        self.open_session()?;
        self.try_login(&*guard)?;
        self.guard = guard;
        Ok(())
    }

    /// Gives the login up.
    pub(super) fn close(&mut self) {
        self.session = None;
        self.release();
    }

    fn release(&mut self) {
        if std::mem::take(&mut self.holds) {
            let mut logins = self.logins.lock().unwrap_or_else(PoisonError::into_inner);
            logins.holders = logins.holders.saturating_sub(1);
        }
    }

    fn try_login(&mut self, guard: &dyn PinGuard) -> Result<(), TokenError> {
        let Some(session) = self.session.as_ref().and_then(Opened::live) else {
            return Err(TokenError::own(ErrorClass::Context, "C_Login", "there is no keeper session"));
        };
        let (module, slot, logins, tag) = (self.module, self.slot, &self.logins, guard.tag());
        guard.attempt(&self.serial, &mut OneLogin { module, slot, session, logins, tag, holds: &mut self.holds })
    }
}

/// One login of a keeper's session.
struct OneLogin<'a> {
    module: &'static Module,
    slot: Slot,
    session: &'a Session,
    logins: &'a Mutex<Logins>,
    tag: PinTag,
    holds: &'a mut bool,
}

impl Login for OneLogin<'_> {
    fn flags(&mut self) -> Result<Option<TokenInfo>, TokenError> {
        flags(self.module, self.slot)
    }

    fn log_in(&mut self, pin: &SecretString) -> LoginVerdict {
        let mut logins = self.logins.lock().unwrap_or_else(PoisonError::into_inner);
        let log_in = || {
            ATTEMPTS.fetch_add(1, Ordering::Relaxed);
            self.session.login(UserType::User, Some(&AuthPin::from(pin.expose().to_owned())))
        };
        let held = *self.holds || logins.holders > 0;
        let known = logins.tried.replace(self.tag).is_some();
        let mut answer = log_in();
        let mut others = false;
        if already(&answer) {
            // RULE: the session's own state says whether somebody is logged in: some libraries say so of every login, and
            // some share one over processes, which a C_Logout of ours would end.
            others = match self.is_logged_in() {
                Ok(there) => there && (held || !known),
                Err(error) => return not_seen(error),
            };
            if !others {
                // A login that nobody holds, of a connection that was not closed to its end: the PIN has not been looked at.
                let _ = self.session.logout();
                answer = log_in();
                others = already(&answer);
                if others {
                    match self.is_logged_in() {
                        Ok(there) => others = there,
                        Err(error) => return not_seen(error),
                    }
                }
            }
        }
        match answer {
            Err(error) if !others => verdict(CallError::from_cryptoki("C_Login", &error)),
            _ => {
                if !std::mem::replace(self.holds, true) {
                    logins.holders += 1;
                }
                if others { LoginVerdict::AlreadyLoggedIn } else { LoginVerdict::Accepted }
            }
        }
    }
}

impl OneLogin<'_> {
    fn is_logged_in(&self) -> Result<bool, CallError> {
        match self.session.get_session_info() {
            Ok(info) => Ok(logged_in(info.session_state())),
            Err(error) => Err(CallError::from_cryptoki("C_GetSessionInfo", &error)),
        }
    }
}

fn already(answer: &Result<(), Error>) -> bool {
    matches!(answer, Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)))
}

fn not_seen(error: CallError) -> LoginVerdict {
    LoginVerdict::NotTried(error.into_error("whether the login stands cannot be seen"))
}

fn verdict(error: CallError) -> LoginVerdict {
    match error.rv {
        sys::CKR_PIN_INCORRECT | sys::CKR_PIN_LEN_RANGE | sys::CKR_PIN_INVALID => {
            LoginVerdict::Rejected(error.into_error("the token rejected the PIN: it is not tried again"))
        }
        sys::CKR_PIN_LOCKED => LoginVerdict::Locked(error.into_error("the user PIN is locked")),
        sys::CKR_PIN_EXPIRED => LoginVerdict::Locked(error.into_error("the user PIN has expired")),
        // A token without a PIN has not rejected this one.
        sys::CKR_USER_PIN_NOT_INITIALIZED => LoginVerdict::NotTried(error.into_error("the token has no user PIN yet")),
        sys::CKR_SESSION_HANDLE_INVALID
        | sys::CKR_SESSION_CLOSED
        | sys::CKR_CRYPTOKI_NOT_INITIALIZED
        | sys::CKR_FUNCTION_NOT_SUPPORTED
        | sys::CKR_USER_ALREADY_LOGGED_IN => LoginVerdict::NotTried(error.into_error("the login failed")),
        _ => LoginVerdict::Other(error.into_error("the login failed")),
    }
}

/// RULE: no PIN is tried where it could lock the token; the tries until the lock belong to the operator.
fn flags(module: &Module, slot: Slot) -> Result<Option<TokenInfo>, TokenError> {
    match module.functions.token_info(slot.id()) {
        Ok((info, limits)) => refuse_login(&info, &limits).map(|()| Some(info)),
        Err(_) => Ok(None),
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.close();
    }
}

fn logged_in(state: SessionState) -> bool {
    matches!(state, SessionState::RoUser | SessionState::RwUser)
}
