//! The keeper session: it holds the login of the process and is closed last. Login state belongs to the process and the
//! token, so the other sessions only open.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use cryptoki::error::{Error, RvError};
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use cryptoki_sys as sys;

use super::error::CallError;
use super::module::{Module, Selected, refuse_login};
use super::{ErrorClass, TokenError};
use crate::secret::SecretString;

pub(super) struct Keeper {
    module: &'static Module,
    slot: Slot,
    serial: String,
    pin: SecretString,
    session: Option<Session>,
}

/// PINs that a token of this process refused, by serial: none is tried twice.
static REJECTED: Mutex<Vec<(String, SecretString)>> = Mutex::new(Vec::new());
static ATTEMPTS: AtomicU64 = AtomicU64::new(0);

/// C_Login calls made by this process.
pub fn login_attempts() -> u64 {
    ATTEMPTS.load(Ordering::Relaxed)
}

impl Keeper {
    /// Opens the session and logs in, with one try.
    pub(super) fn log_in(
        module: &'static Module,
        selected: &Selected,
        pin: SecretString,
    ) -> Result<Keeper, TokenError> {
        let mut keeper =
            Keeper { module, slot: selected.slot, serial: selected.info.serial.clone(), pin, session: None };
        keeper.ensure()?;
        Ok(keeper)
    }

    /// Opens the session and logs in where either was lost. A login makes every handle known before stale.
    pub(super) fn ensure(&mut self) -> Result<(), TokenError> {
        match self.session.as_ref().map(Session::get_session_info) {
            Some(Ok(info)) if logged_in(info.session_state()) => return Ok(()),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => self.session = None,
        }
        if self.session.is_none() {
            // R/W, since some tokens support no others.
            let session = self.module.context.open_rw_session(self.slot).map_err(|error| {
                CallError::from_cryptoki("C_OpenSession", &error).into_error("the keeper session does not open")
            })?;
            self.session = Some(session);
        }
        self.try_login()
    }

    /// Whether the login stands, in one round trip.
    pub(super) fn alive(&self) -> Result<(), CallError> {
        let lost = CallError { function: "C_GetSessionInfo", rv: sys::CKR_SESSION_CLOSED };
        match self.session.as_ref().ok_or(lost)?.get_session_info() {
            Ok(info) if logged_in(info.session_state()) => Ok(()),
            Ok(_) => Err(CallError { function: "C_GetSessionInfo", rv: sys::CKR_USER_NOT_LOGGED_IN }),
            Err(error) => Err(CallError::from_cryptoki("C_GetSessionInfo", &error)),
        }
    }

    pub(super) fn session(&self) -> Option<&Session> {
        self.session.as_ref()
    }

    /// Gives the login up.
    pub(super) fn close(&mut self) {
        self.session = None;
    }

    fn try_login(&self) -> Result<(), TokenError> {
        let Some(session) = &self.session else {
            return Err(TokenError::own(ErrorClass::Context, "C_Login", "there is no keeper session"));
        };
        let mut rejected = REJECTED.lock().unwrap_or_else(PoisonError::into_inner);
        // RULE: a PIN that was rejected once is never tried again; the tries until the lock belong to the operator.
        if rejected.iter().any(|(serial, pin)| *serial == self.serial && *pin == self.pin) {
            return Err(TokenError::own(
                ErrorClass::Operator,
                "C_Login",
                "the token rejected this PIN before: it is not tried again",
            ));
        }
        // Read just before the try: another process may have spent tries since.
        if let Ok((info, limits)) = self.module.functions.token_info(self.slot.id()) {
            refuse_login(&info, &limits)?;
        }
        ATTEMPTS.fetch_add(1, Ordering::Relaxed);
        match session.login(UserType::User, Some(&AuthPin::from(self.pin.expose().to_owned()))) {
            // Another session of this process holds the login: normal, and it says nothing about the PIN.
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
            Err(error) => {
                let error = CallError::from_cryptoki("C_Login", &error);
                if error.class() == ErrorClass::Operator {
                    rejected.push((self.serial.clone(), self.pin.clone()));
                }
                Err(error.into_error(match error.rv {
                    sys::CKR_PIN_INCORRECT | sys::CKR_PIN_LEN_RANGE | sys::CKR_PIN_INVALID => {
                        "the token rejected the PIN: it is not tried again"
                    }
                    sys::CKR_PIN_LOCKED => "the user PIN is locked",
                    sys::CKR_PIN_EXPIRED => "the user PIN has expired",
                    sys::CKR_USER_PIN_NOT_INITIALIZED => "the token has no user PIN yet",
                    _ => "the login failed",
                }))
            }
        }
    }
}

fn logged_in(state: SessionState) -> bool {
    matches!(state, SessionState::RoUser | SessionState::RwUser)
}
