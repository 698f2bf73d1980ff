//! Who has the PIN, and who lets it be tried: the keeper asks a guard for each login and keeps no PIN itself. In the process
//! that has the configuration the guard is a `HeldPin`; a worker process asks its parent.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use aws_lc_rs::hmac;
use serde::{Deserialize, Serialize};

use super::marks::{Marks, PinOutcome, refused};
use super::{ErrorClass, OpenFailure, TokenError, TokenInfo};
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

#[derive(Debug, Serialize, Deserialize)]
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
            // Its last try had no answer, and the token counts a wrong PIN since: it works no longer, as far as anybody can tell.
            Err(error) if worked && error.class == ErrorClass::Operator => {
                known(serial, |known| {
                    known.refused.push((self.pin.clone(), error.open_failure()));
                    known.accepted.take_if(|accepted| *accepted == self.pin);
                });
                Err(error)
            }
            // A full disk must not keep a token away; another login of the host, which does not end, does.
            Err(error) if worked && error.function == "C_Login" && error.class != ErrorClass::Deadline => {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A token that counts wrong PINs.
    struct Fake {
        right: String,
        counts: bool,
        low: bool,
        tries: usize,
        /// C_Login does not come back: the process is killed in it.
        dies: bool,
    }

    struct FakeLogin<'a>(&'a mut Fake);

    impl Login for FakeLogin<'_> {
        fn flags(&mut self) -> Result<Option<TokenInfo>, TokenError> {
            Ok(Some(TokenInfo { user_pin_count_low: self.0.low, ..TokenInfo::default() }))
        }

        fn log_in(&mut self, pin: &SecretString) -> LoginVerdict {
            self.0.tries += 1;
            let right = pin.expose() == self.0.right;
            self.0.low = !right && self.0.counts;
            match (right, self.0.dies) {
                (_, true) => LoginVerdict::Other(TokenError::own(ErrorClass::Context, "C_Login", "killed")),
                (true, false) => LoginVerdict::Accepted,
                (false, false) => LoginVerdict::Rejected(
                    TokenError::own(ErrorClass::Operator, "C_Login", "wrong").because(OpenFailure::PinIncorrect),
                ),
            }
        }
    }

    impl Fake {
        fn new(right: &str) -> Fake {
            Fake { right: right.to_owned(), counts: true, low: false, tries: 0, dies: false }
        }

        /// One start of the service: a process that knows nothing.
        fn start(&mut self, marks: &Marks, serial: &str, pin: &str) -> Result<(), TokenError> {
            known(serial, |known| *known = Known::default());
            self.again(marks, serial, pin)
        }

        fn again(&mut self, marks: &Marks, serial: &str, pin: &str) -> Result<(), TokenError> {
            HeldPin::new(SecretString::new(pin.into()), marks.clone()).attempt(serial, &mut FakeLogin(self))
        }
    }

    /// PINs whose marks differ: what happens where they do not is a test of its own.
    fn pins(marks: &Marks, serial: &str, count: usize) -> Vec<String> {
        let mut found: Vec<(u8, String)> = Vec::new();
        for number in 0.. {
            let pin = format!("{number:06}");
            let mark = marks.mark_of(serial, &SecretString::new(pin.clone()));
            if found.iter().all(|(known, _)| *known != mark) {
                found.push((mark, pin));
            }
            if found.len() == count {
                break;
            }
        }
        found.into_iter().map(|(_, pin)| pin).collect()
    }

    fn directory() -> (tempfile::TempDir, Marks) {
        let directory = tempfile::tempdir().unwrap();
        let marks = Marks::at(directory.path().join("state/pin-marks"));
        (directory, marks)
    }

    #[test]
    fn one_try_per_pin_over_restarts() {
        let (_directory, marks) = directory();
        let serial = "one_try";
        let pins = pins(&marks, serial, 3);
        let mut token = Fake::new(&pins[2]);
        for _ in 0..10 {
            let error = token.start(&marks, serial, &pins[0]).unwrap_err();
            assert_eq!((error.class, error.open_failure()), (ErrorClass::Operator, OpenFailure::PinIncorrect));
        }
        assert_eq!(token.tries, 1);
        for _ in 0..3 {
            assert!(token.start(&marks, serial, &pins[1]).is_err());
            assert!(token.again(&marks, serial, &pins[1]).is_err());
        }
        assert_eq!(token.tries, 2);
        token.start(&marks, serial, &pins[2]).unwrap();
        assert_eq!(token.tries, 3);
        // What was wrong is still wrong.
        assert!(token.start(&marks, serial, &pins[0]).is_err());
        assert_eq!(token.tries, 3);
        // Another token knows nothing of it.
        assert!(token.start(&marks, "one_try_other", &pins[0]).is_err());
        assert_eq!(token.tries, 4);
        assert_eq!(retry_pins(&marks, serial).unwrap(), 2);
        assert!(token.again(&marks, serial, &pins[0]).is_err());
        assert_eq!(token.tries, 5);
    }

    #[test]
    fn a_pin_that_worked_is_not_taken_for_one_like_it() {
        let (_directory, marks) = directory();
        let serial = "alike";
        let right = "right";
        let mark = marks.mark_of(serial, &SecretString::new(right.into()));
        let alike =
            (0..).map(|n| format!("{n}")).find(|pin| marks.mark_of(serial, &SecretString::new(pin.clone())) == mark);
        let alike = alike.unwrap();
        let mut token = Fake::new(right);
        token.start(&marks, serial, right).unwrap();
        assert!(token.again(&marks, serial, &alike).is_err());
        token.again(&marks, serial, right).unwrap();
        assert_eq!(token.tries, 3);
        // The price of short marks: after a restart nobody can tell them apart.
        let error = token.start(&marks, serial, right).unwrap_err();
        assert!(error.detail.contains("--retry"), "{error}");
        assert_eq!(token.tries, 3);
        assert_eq!(retry_pins(&marks, serial).unwrap(), 1);
        token.start(&marks, serial, right).unwrap();
    }

    #[test]
    fn who_dies_in_a_login_has_tried_it_if_the_token_counted() {
        for counts in [true, false] {
            let (_directory, marks) = directory();
            let serial = "dies";
            let pins = pins(&marks, serial, 2);
            let mut token = Fake { counts, dies: true, ..Fake::new(&pins[1]) };
            assert!(token.start(&marks, serial, &pins[0]).is_err());
            token.dies = false;
            let error = token.start(&marks, serial, &pins[0]).unwrap_err();
            assert_eq!(error.open_failure(), OpenFailure::PinIncorrect);
            assert_eq!(token.tries, if counts { 1 } else { 2 });
            token.start(&marks, serial, &pins[1]).unwrap();
            // A right one that was killed is tried again: the token does not count it.
            token.dies = true;
            assert!(token.start(&marks, serial, &pins[1]).is_err());
            token.dies = false;
            token.start(&marks, serial, &pins[1]).unwrap();
        }
    }

    #[test]
    fn a_pin_that_worked_is_not_tried_on_and_on_without_an_answer() {
        for counts in [true, false] {
            let (_directory, marks) = directory();
            let serial = if counts { "worked_counts" } else { "worked_counts_not" };
            let pins = pins(&marks, serial, 2);
            let mut token = Fake { counts, ..Fake::new(&pins[0]) };
            token.start(&marks, serial, &pins[0]).unwrap();
            // Somebody changes the PIN, and the token has its own word for a wrong one.
            (token.right, token.dies) = (pins[1].clone(), true);
            for _ in 0..5 {
                assert!(token.again(&marks, serial, &pins[0]).is_err());
            }
            assert_eq!(token.tries, if counts { 2 } else { 6 }, "a token that does not count loses nothing by it");
            token.dies = false;
            if counts {
                assert_eq!(retry_pins(&marks, serial).unwrap(), 1);
            }
            token.right = pins[0].clone();
            token.again(&marks, serial, &pins[0]).unwrap();
        }
    }

    #[test]
    fn many_at_once_try_once() {
        let (_directory, marks) = directory();
        let serial = "many";
        let tries = Arc::new(AtomicUsize::new(0));
        struct Counting(Arc<AtomicUsize>);
        impl Login for Counting {
            fn flags(&mut self) -> Result<Option<TokenInfo>, TokenError> {
                Ok(Some(TokenInfo::default()))
            }

            fn log_in(&mut self, _: &SecretString) -> LoginVerdict {
                self.0.fetch_add(1, Ordering::SeqCst);
                LoginVerdict::Rejected(TokenError::own(ErrorClass::Operator, "C_Login", "wrong"))
            }
        }
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let pin = HeldPin::new(SecretString::new("wrong".into()), marks.clone());
                    assert!(pin.attempt(serial, &mut Counting(tries.clone())).is_err());
                });
            }
        });
        assert_eq!(tries.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn without_marks_nothing_is_tried_but_what_worked() {
        let (directory, marks) = directory();
        let serial = "no_marks";
        // A file where the directory should be: also root cannot write there.
        std::fs::write(directory.path().join("state"), b"").unwrap();
        let mut token = Fake::new("right");
        let error = token.start(&marks, serial, "right").unwrap_err();
        assert_eq!((error.class, error.open_failure(), token.tries), (ErrorClass::Context, OpenFailure::Other, 0));
        assert!(error.detail.contains("pin_marks"), "{error}");
        std::fs::remove_file(directory.path().join("state")).unwrap();
        token.start(&marks, serial, "right").unwrap();
        std::fs::remove_dir_all(directory.path().join("state")).unwrap();
        std::fs::write(directory.path().join("state"), b"").unwrap();
        token.again(&marks, serial, "right").unwrap();
        assert_eq!(token.tries, 2);
    }

    #[test]
    fn a_locked_token_rejects_no_pin() {
        let locked = LoginVerdict::Locked(TokenError::own(ErrorClass::Operator, "C_Login", "locked"));
        assert_eq!(locked.outcome(), PinOutcome::NotLookedAt);
        assert_eq!(LoginVerdict::AlreadyLoggedIn.outcome(), PinOutcome::NotLookedAt);
    }

    #[test]
    fn tags_tell_pins_apart() {
        let (_directory, marks) = directory();
        let tag = |pin: &str| HeldPin::new(SecretString::new(pin.into()), marks.clone()).tag();
        assert_eq!(tag("a"), tag("a"));
        assert_ne!(tag("a"), tag("b"));
    }
}
