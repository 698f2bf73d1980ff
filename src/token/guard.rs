//! Who has the PIN, and who lets it be tried: the keeper asks a guard for each login and keeps no PIN itself. In the process
//! that has the configuration the guard is a `HeldPin`; a worker process asks its parent.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use aws_lc_rs::hmac;
use serde::{Deserialize, Serialize};

use super::marks::{Marks, PinOutcome, refused};
use super::{OpenFailure, TokenError, TokenInfo};
use crate::secret::SecretString;

/// One PIN value of one token's user.
///
/// A guard that is far from its PIN (in a worker process) asks for a login and then does what it is told: the other end calls
/// `HeldPin::attempt` with a `Login` that sends each question over, and `LoginVerdict::Other` where no answer comes back. The
/// flags are read when they are asked for and not before: then no other process of the host is in C_Login.
pub trait PinGuard: Send + Sync {
    /// Whether `attempt` would refuse at once: before anything is given up for it. Asks the token nothing.
    fn refuse(&self, serial: &str) -> Result<(), TokenError>;

    /// Logs in with one try, or refuses without one. May block for as long as another login of the host does, with a limit.
    fn attempt(&self, serial: &str, login: &mut dyn Login) -> Result<(), TokenError>;

    /// Equal for equal PINs: whether a module that keeps PINs in its memory has to be initialised again. A guard whose module
    /// never sees two PINs may answer the same always.
    fn tag(&self) -> PinTag;
}

/// The token's side of a login.
pub trait Login {
    /// What the token says of its user PIN now; `None` where it cannot be read. An error where no login may be tried (locked,
    /// or one try from the lock).
    fn flags(&mut self) -> Result<Option<TokenInfo>, TokenError>;

    /// C_Login, once.
    fn log_in(&mut self, pin: &SecretString) -> LoginVerdict;
}

#[derive(Debug)]
pub enum LoginVerdict {
    Accepted,
    /// Another session of the process holds the login: it says nothing about the PIN.
    AlreadyLoggedIn,
    /// This value is wrong.
    Rejected(TokenError),
    /// Locked or expired: the value may be right.
    Locked(TokenError),
    /// The token has not looked at the PIN.
    NotTried(TokenError),
    /// Nobody knows whether it looked.
    Other(TokenError),
}

/// Says which PINs are equal, within one process, and nothing else of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PinTag([u8; 16]);

/// The PIN in this process, and the host's marks.
pub struct HeldPin {
    pin: SecretString,
    marks: Marks,
}

/// What this process knows of the PINs of one token.
#[derive(Default)]
struct Known {
    /// Exact, unlike marks; also PINs of locked tokens, which leave no mark.
    refused: Vec<(SecretString, OpenFailure)>,
    /// The last one that worked: marks say nothing of it, since one like it may have been rejected.
    accepted: Option<SecretString>,
}

/// By serial.
static KNOWN: Mutex<Option<HashMap<String, Known>>> = Mutex::new(None);

impl HeldPin {
    pub fn new(pin: SecretString, marks: Marks) -> HeldPin {
        HeldPin { pin, marks }
    }

    fn log_in(&self, serial: &str, login: &mut dyn Login) -> LoginVerdict {
        let verdict = login.log_in(&self.pin);
        known(serial, |known| match &verdict {
            LoginVerdict::Accepted => known.accepted = Some(self.pin.clone()),
            LoginVerdict::Rejected(error) | LoginVerdict::Locked(error) => {
                known.refused.push((self.pin.clone(), error.open_failure()));
                known.accepted.take_if(|accepted| *accepted == self.pin);
            }
            LoginVerdict::AlreadyLoggedIn | LoginVerdict::NotTried(_) | LoginVerdict::Other(_) => {}
        });
        verdict
    }
}

impl PinGuard for HeldPin {
    fn refuse(&self, serial: &str) -> Result<(), TokenError> {
        let (failure, worked) = known(serial, |known| {
            let failure = known.refused.iter().find(|(refused, _)| *refused == self.pin).map(|(_, failure)| *failure);
            (failure, known.accepted.as_ref() == Some(&self.pin))
        });
        match failure {
            Some(failure) => Err(refused().because(failure)),
            None if worked => Ok(()),
            None => self.marks.refuse(serial, &self.pin),
        }
    }

    fn attempt(&self, serial: &str, login: &mut dyn Login) -> Result<(), TokenError> {
        self.refuse(serial)?;
        let worked = known(serial, |known| known.accepted.as_ref() == Some(&self.pin));
        let locked = self.marks.lock(serial).map(|locked| if worked { locked.trusting() } else { locked });
        if let Ok(locked) = &locked {
            locked.refuse(&self.pin)?;
        }
        let flags = login.flags()?;
        match locked.and_then(|locked| locked.begin(&self.pin, flags.as_ref())) {
            Ok(attempt) => {
                let verdict = self.log_in(serial, login);
                // What is not written here stays pending, which is written.
                if let Err(error) = attempt.end(verdict.outcome()) {
                    tracing::error!(%error, "the outcome of a login is not marked");
                }
                verdict.into_result()
            }
            // A full disk must not keep a token away.
            Err(error) if worked => {
                tracing::warn!(%error, "logged in again without a mark: this PIN worked before");
                self.log_in(serial, login).into_result()
            }
            Err(error) => Err(error),
        }
    }

    fn tag(&self) -> PinTag {
        static KEY: OnceLock<Option<hmac::Key>> = OnceLock::new();
        let key = KEY.get_or_init(|| {
            let mut bytes = [0u8; 32];
            getrandom::fill(&mut bytes).ok().map(|()| hmac::Key::new(hmac::HMAC_SHA256, &bytes))
        });
        let tag = key.as_ref().map(|key| hmac::sign(key, self.pin.expose().as_bytes()));
        PinTag(tag.and_then(|tag| tag.as_ref().first_chunk().copied()).unwrap_or_default())
    }
}

impl LoginVerdict {
    pub fn outcome(&self) -> PinOutcome {
        match self {
            LoginVerdict::Accepted => PinOutcome::Accepted,
            LoginVerdict::Rejected(_) => PinOutcome::Rejected,
            LoginVerdict::AlreadyLoggedIn | LoginVerdict::Locked(_) | LoginVerdict::NotTried(_) => {
                PinOutcome::NotLookedAt
            }
            LoginVerdict::Other(_) => PinOutcome::Unknown,
        }
    }

    pub fn into_result(self) -> Result<(), TokenError> {
        match self {
            LoginVerdict::Accepted | LoginVerdict::AlreadyLoggedIn => Ok(()),
            LoginVerdict::Rejected(error)
            | LoginVerdict::Locked(error)
            | LoginVerdict::NotTried(error)
            | LoginVerdict::Other(error) => Err(error),
        }
    }
}

/// Each PIN of the token may be tried once more, by this process and by all others of the host. The number of marks that
/// there were. Blocking.
pub fn retry_pins(marks: &Marks, serial: &str) -> Result<usize, TokenError> {
    let removed = marks.forget(serial)?;
    known(serial, |known| known.refused.clear());
    Ok(removed)
}

fn known<T>(serial: &str, look: impl FnOnce(&mut Known) -> T) -> T {
    let mut all = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    look(all.get_or_insert_default().entry(serial.to_owned()).or_default())
}
