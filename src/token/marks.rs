//! Marks of rejected PINs: what makes one try per PIN value hold for the whole host and over restarts. A directory of the
//! service's user with a random key file, and beside it one file and one lock per token.
//!
//! A mark is one byte: HMAC-SHA-256 under the key file over the token's serial and the PIN, cut to 8 bits. What was rejected is
//! often nearly the right PIN, or the right one of another token. A whole HMAC, to one who has the key file too, would give
//! a PIN of a few digits away in a moment; of 8 bits he learns only that 255 of 256 PINs were not the rejected one. The price:
//! one right PIN of 256 looks like a rejected one, and is refused until an officer lets it be tried (`token pin --retry`).
//!
//! Before C_Login the PIN is `pending`, durably. Where a process dies in the call, the next one reads the token's flags: a
//! token that counts a wrong PIN since the last login has counted that one, as far as anybody can tell.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aws_lc_rs::{digest, hmac};
use rustix::fs::{FlockOperation, OFlags, flock};
use serde::{Deserialize, Serialize};

use super::{ErrorClass, OpenFailure, TokenError, TokenInfo};
use crate::secret::SecretString;

/// How long another process may be in C_Login before this one gives up.
const WAIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);
const KEY: &str = "key";
const KEY_LEN: usize = 32;
/// Far more than 256 marks need.
const MAX_FILE: u64 = 16_384;

/// The directory. Nothing is made or read before the first login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marks {
    directory: PathBuf,
}

/// The marks of one token, held by this process alone. Where it is dropped before `Attempt::end`, the try stays pending.
pub struct Locked {
    marks: Marks,
    name: String,
    serial: String,
    key: hmac::Key,
    content: Content,
    trusting: bool,
    _lock: File,
}

/// A try that is written down.
pub struct Attempt {
    locked: Locked,
    mark: u8,
}

/// What C_Login said about the PIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PinOutcome {
    Accepted,
    /// The token looked at it, and it is wrong.
    Rejected,
    /// The token has not looked at it: no try is spent.
    NotLookedAt,
    /// Nobody knows: the try stays pending.
    Unknown,
}

#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    /// Under which key file; marks under another one say nothing.
    key: String,
    rejected: BTreeSet<u8>,
    pending: BTreeSet<u8>,
}

impl Marks {
    pub fn at(directory: impl Into<PathBuf>) -> Marks {
        Marks { directory: directory.into() }
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Locks the marks of a token, so that no other process tries a PIN on it meanwhile. Blocking, for 20 seconds at most.
    pub fn lock(&self, serial: &str) -> Result<Locked, TokenError> {
        self.lock_within(serial, WAIT)
    }

    /// Refuses a PIN that is marked, without the lock: before anything is given up for a try. Marks that cannot be read refuse
    /// nothing here; `lock` does.
    pub fn refuse(&self, serial: &str, pin: &SecretString) -> Result<(), TokenError> {
        let Ok(Some(key)) = self.read_key() else { return Ok(()) };
        match self.read(&file_name(serial)) {
            Ok(Some(content)) if content.key == key_id(&key) && content.rejected.contains(&mark(&key, serial, pin)) => {
                Err(refused())
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Removes the marks of a token: each PIN may be tried once more. The number of marks that there were.
    pub fn forget(&self, serial: &str) -> Result<usize, TokenError> {
        self.prepare()?;
        let name = file_name(serial);
        let _lock = self.hold(&name, WAIT)?;
        let known = match self.read(&name) {
            Ok(content) => content.map_or(0, |content| content.rejected.union(&content.pending).count()),
            // Damaged, and on its way out.
            Err(_) => 0,
        };
        match std::fs::remove_file(self.directory.join(&name)) {
            Ok(()) => self.sync().map_err(|error| self.failed("cannot be removed", &error))?,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(self.failed("cannot be removed", &error)),
        }
        Ok(known)
    }

    fn lock_within(&self, serial: &str, wait: Duration) -> Result<Locked, TokenError> {
        self.prepare()?;
        let key = self.key()?;
        let name = file_name(serial);
        let lock = self.hold(&name, wait)?;
        let id = key_id(&key);
        let content = match self.read(&name)? {
            Some(content) if content.key == id => content,
            found => {
                if found.is_some() {
                    tracing::warn!(
                        serial,
                        directory = %self.directory.display(),
                        "the key file of the PIN marks is another one: the marks of before say nothing any more, and each PIN \
                         may be tried once again"
                    );
                }
                Content { key: id, ..Content::default() }
            }
        };
        Ok(Locked { marks: self.clone(), name, serial: serial.to_owned(), key, content, trusting: false, _lock: lock })
    }

    /// The directory: 0700 and ours, made where it is missing.
    fn prepare(&self) -> Result<(), TokenError> {
        let told = |error: &io::Error| self.failed("cannot be kept", error);
        let found = match std::fs::metadata(&self.directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                DirBuilder::new().recursive(true).mode(0o700).create(&self.directory).map_err(|error| told(&error))?;
                std::fs::metadata(&self.directory).map_err(|error| told(&error))?
            }
            found => found.map_err(|error| told(&error))?,
        };
        if !found.is_dir() {
            return Err(told(&io::Error::other("it is no directory")));
        }
        private(&found).map_err(|error| told(&error))
    }

    /// Held until the file is dropped. The lock has a file of its own, because the marks' file is replaced.
    fn hold(&self, name: &str, wait: Duration) -> Result<File, TokenError> {
        let told = |error: &io::Error| self.failed("cannot be locked", error);
        let path = self.directory.join(format!("{name}.lock"));
        let file = options().write(true).create(true).truncate(false).open(path).map_err(|error| told(&error))?;
        let end = Instant::now() + wait;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) if Instant::now() < end => {
                    std::thread::sleep(POLL);
                }
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {
                    return Err(TokenError::own(
                        ErrorClass::Deadline,
                        "C_Login",
                        "another login of this host to the token does not end: the PIN is not tried meanwhile",
                    ));
                }
                Err(error) => return Err(told(&error.into())),
            }
        }
    }

    fn key(&self) -> Result<hmac::Key, TokenError> {
        let told = |error: &io::Error| self.failed("have no key file", error);
        if let Some(key) = self.read_key().map_err(|error| told(&error))? {
            return Ok(key);
        }
        self.make_key().map_err(|error| told(&error))?;
        match self.read_key().map_err(|error| told(&error))? {
            Some(key) => Ok(key),
            None => Err(told(&ErrorKind::NotFound.into())),
        }
    }

    fn read_key(&self) -> io::Result<Option<hmac::Key>> {
        let file = match options().read(true).open(self.directory.join(KEY)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let found = file.metadata()?;
        private(&found)?;
        let mut bytes = zeroize::Zeroizing::new([0u8; KEY_LEN]);
        if !found.is_file() || found.len() != KEY_LEN as u64 {
            return Err(io::Error::other(
                "the key file has not 32 bytes: remove it, and each PIN may be tried once again",
            ));
        }
        (&file).read_exact(bytes.as_mut_slice())?;
        Ok(Some(hmac::Key::new(hmac::HMAC_SHA256, bytes.as_slice())))
    }

    /// Whole or not at all, and the first one stays.
    fn make_key(&self) -> io::Result<()> {
        let mut bytes = zeroize::Zeroizing::new([0u8; KEY_LEN]);
        let mut suffix = [0u8; 8];
        getrandom::fill(bytes.as_mut_slice()).map_err(io::Error::other)?;
        getrandom::fill(&mut suffix).map_err(io::Error::other)?;
        let new = self.directory.join(format!("{KEY}.{}", hex::encode(suffix)));
        let mut file = options().write(true).create_new(true).open(&new)?;
        let made = file
            .write_all(bytes.as_slice())
            .and_then(|()| file.sync_all())
            .and_then(|()| std::fs::hard_link(&new, self.directory.join(KEY)));
        let _ = std::fs::remove_file(&new);
        match made {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
            _ => self.sync(),
        }
    }

    fn read(&self, name: &str) -> Result<Option<Content>, TokenError> {
        let file = match options().read(true).open(self.directory.join(name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file.map_err(|error| self.failed("cannot be read", &error))?,
        };
        let mut text = String::new();
        file.take(MAX_FILE).read_to_string(&mut text).map_err(|error| self.failed("cannot be read", &error))?;
        match serde_json::from_str(&text) {
            Ok(content) => Ok(Some(content)),
            Err(_) => {
                let what = format!("`{name}` is damaged: `token pin --retry` removes it");
                Err(self.failed("cannot be read", &io::Error::other(what)))
            }
        }
    }

    fn write(&self, name: &str, content: &Content) -> Result<(), TokenError> {
        let new = self.directory.join(format!("{name}.new"));
        let written = || -> io::Result<()> {
            let text = serde_json::to_vec(content)?;
            let mut file = options().write(true).create(true).truncate(true).open(&new)?;
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&new, self.directory.join(name))?;
            self.sync()
        };
        written().map_err(|error| self.failed("cannot be written", &error))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }

    /// RULE: without marks no PIN is tried: nobody would know of the try afterwards.
    fn failed(&self, what: &str, error: &io::Error) -> TokenError {
        let at = self.directory.display();
        TokenError::own(
            ErrorClass::Context,
            "C_Login",
            format!(
                "the marks of tried PINs in `{at}` (`token.pin_marks`) {what}: {error}. no PIN is tried without them"
            ),
        )
    }
}

impl Locked {
    /// For a PIN that worked before: a mark like its own is that of another one.
    pub fn trusting(self) -> Locked {
        Locked { trusting: true, ..self }
    }

    /// Refuses a PIN that the token rejected before.
    pub fn refuse(&self, pin: &SecretString) -> Result<(), TokenError> {
        let marked = !self.trusting && self.content.rejected.contains(&self.mark(pin));
        if marked { Err(refused()) } else { Ok(()) }
    }

    /// Writes down that the PIN is about to be tried. `flags`: what the token says now, under this lock; `None`: it says
    /// nothing.
    ///
    /// RULE: that a PIN worked before is no word against its own last try, which had no answer and which the token may have
    /// counted: somebody may have changed the PIN meanwhile.
    pub fn begin(mut self, pin: &SecretString, flags: Option<&TokenInfo>) -> Result<Attempt, TokenError> {
        self.refuse(pin)?;
        let mark = self.mark(pin);
        self.trusting &= !self.content.pending.contains(&mark);
        match flags {
            // A process died while it tried these, and a wrong PIN was counted since the last login.
            Some(info) if info.user_pin_count_low && !self.content.pending.is_empty() => {
                tracing::warn!(
                    serial = self.serial,
                    "a login ended without an answer and the token counts a wrong PIN: that PIN counts as rejected"
                );
                let pending = std::mem::take(&mut self.content.pending);
                self.content.rejected.extend(pending);
                self.write()?;
            }
            Some(_) => self.content.pending.clear(),
            None if !self.trusting && self.content.pending.contains(&mark) => {
                return Err(TokenError::own(
                    ErrorClass::Context,
                    "C_GetTokenInfo",
                    "the last login with this PIN ended without an answer, and the token does not say whether it counts wrong PINs",
                ));
            }
            None => {}
        }
        self.refuse(pin)?;
        self.content.pending.insert(mark);
        self.write()?;
        Ok(Attempt { locked: self, mark })
    }

    fn mark(&self, pin: &SecretString) -> u8 {
        mark(&self.key, &self.serial, pin)
    }

    fn write(&self) -> Result<(), TokenError> {
        self.marks.write(&self.name, &self.content)
    }
}

impl Attempt {
    pub fn end(self, outcome: PinOutcome) -> Result<(), TokenError> {
        let Attempt { mut locked, mark } = self;
        match outcome {
            PinOutcome::Unknown => return Ok(()),
            // A login sets the token's counter back, so nothing of before is open.
            PinOutcome::Accepted => locked.content.pending.clear(),
            PinOutcome::NotLookedAt => {
                locked.content.pending.remove(&mark);
            }
            PinOutcome::Rejected => {
                locked.content.pending.remove(&mark);
                locked.content.rejected.insert(mark);
            }
        }
        locked.write()
    }
}

pub(super) fn refused() -> TokenError {
    TokenError::own(
        ErrorClass::Operator,
        "C_Login",
        "the token rejected this PIN before: it is not tried again, unless by `token pin --retry`",
    )
    .because(OpenFailure::PinIncorrect)
}

fn mark(key: &hmac::Key, serial: &str, pin: &SecretString) -> u8 {
    let mut context = hmac::Context::with_key(key);
    context.update(b"hsm-bridge/pin-mark/1");
    context.update(&(serial.len() as u64).to_be_bytes());
    context.update(serial.as_bytes());
    context.update(pin.expose().as_bytes());
    context.sign().as_ref().first().copied().unwrap_or_default()
}

/// Tells key files apart and nothing else.
fn key_id(key: &hmac::Key) -> String {
    hex::encode(hmac::sign(key, b"hsm-bridge/pin-mark-key/1").as_ref().get(..8).unwrap_or_default())
}

/// A serial is the token's text, and may be anything.
fn file_name(serial: &str) -> String {
    format!("token-{}", hex::encode(digest::digest(&digest::SHA256, serial.as_bytes())))
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    options
}

fn private(found: &std::fs::Metadata) -> io::Result<()> {
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other("it belongs to another user"));
    }
    if found.mode() & 0o077 != 0 {
        return Err(io::Error::other(format!("it is open to others (mode {:04o})", found.mode() & 0o7777)));
    }
    Ok(())
}

#[cfg(test)]
impl Marks {
    pub(super) fn mark_of(&self, serial: &str, pin: &SecretString) -> u8 {
        self.prepare().unwrap();
        mark(&self.key().unwrap(), serial, pin)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn pin(text: &str) -> SecretString {
        SecretString::new(text.into())
    }

    fn directory() -> (tempfile::TempDir, Marks) {
        let directory = tempfile::tempdir().unwrap();
        let marks = Marks::at(directory.path().join("marks"));
        (directory, marks)
    }

    fn reject(marks: &Marks, serial: &str, text: &str) {
        let locked = marks.lock(serial).unwrap();
        locked.begin(&pin(text), None).unwrap().end(PinOutcome::Rejected).unwrap();
    }

    #[test]
    fn what_is_on_disk() {
        let (_directory, marks) = directory();
        reject(&marks, "serial\u{e9}/..", "canary-pin");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(marks.directory()), 0o700);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(marks.directory()).unwrap() {
            let path = entry.unwrap().path();
            assert_eq!(mode(&path), 0o600, "{}", path.display());
            let text = std::fs::read(&path).unwrap();
            assert!(!String::from_utf8_lossy(&text).contains("canary"), "{}", path.display());
            names.push((path.file_name().unwrap().to_str().unwrap().to_owned(), text.len()));
        }
        names.sort();
        let file = file_name("serial\u{e9}/..");
        let found: Vec<&str> = names.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(found, ["key", &file, &format!("{file}.lock")]);
        assert_eq!(names[0].1, KEY_LEN);
        // One byte of the PIN, and no more.
        let content: Content = serde_json::from_slice(&std::fs::read(marks.directory().join(file)).unwrap()).unwrap();
        assert_eq!((content.rejected.len(), content.pending.len(), content.key.len()), (1, 0, 16));
    }

    #[test]
    fn a_mark_is_of_this_token_and_this_pin() {
        let (_directory, marks) = directory();
        let key = marks.prepare().and_then(|()| marks.key()).unwrap();
        let seen: BTreeSet<u8> = (0..4000).map(|n| mark(&key, "s", &pin(&format!("{n:04}")))).collect();
        assert_eq!(seen.len(), 256, "all 256 marks occur");
        assert!((0..100).any(|n| {
            let pin = pin(&n.to_string());
            mark(&key, "s", &pin) != mark(&key, "t", &pin)
        }));
        assert!((0..100).any(|n| mark(&key, "s", &pin(&format!("1{n}"))) != mark(&key, "s1", &pin(&n.to_string()))));
    }

    #[test]
    fn a_lost_key_file_makes_a_new_start() {
        let (_directory, marks) = directory();
        reject(&marks, "s", "wrong");
        assert!(marks.refuse("s", &pin("wrong")).is_err());
        assert!(marks.lock("s").unwrap().refuse(&pin("wrong")).is_err());
        std::fs::remove_file(marks.directory().join(KEY)).unwrap();
        assert!(marks.refuse("s", &pin("wrong")).is_ok());
        assert!(marks.lock("s").unwrap().refuse(&pin("wrong")).is_ok());
        reject(&marks, "s", "wrong");
        assert!(marks.lock("s").unwrap().refuse(&pin("wrong")).is_err());
    }

    #[test]
    fn a_login_that_hangs_elsewhere_is_not_waited_for_without_end() {
        let (_directory, marks) = directory();
        let hanging = marks.lock("s").unwrap().begin(&pin("p"), None).unwrap();
        let error = marks.lock_within("s", Duration::from_millis(1)).map(drop).unwrap_err();
        assert_eq!((error.class, error.open_failure()), (ErrorClass::Deadline, OpenFailure::Other));
        assert!(error.detail.contains("does not end"), "{error}");
        marks.lock_within("another", Duration::from_millis(1)).unwrap();
        // Killed: the lock goes with the process, and the try stays pending.
        drop(hanging);
        let low = TokenInfo { user_pin_count_low: true, ..TokenInfo::default() };
        let error = marks.lock("s").unwrap().begin(&pin("p"), Some(&low)).map(drop).unwrap_err();
        assert_eq!(error.open_failure(), OpenFailure::PinIncorrect);
        assert!(marks.refuse("s", &pin("p")).is_err(), "it counts as rejected from now on");
    }

    #[test]
    fn a_token_that_says_nothing_of_a_pending_pin_is_not_asked_again() {
        let (_directory, marks) = directory();
        drop(marks.lock("s").unwrap().begin(&pin("p"), None).unwrap());
        let error = marks.lock("s").unwrap().begin(&pin("p"), None).map(drop).unwrap_err();
        assert_eq!(error.class, ErrorClass::Context);
        let good = TokenInfo::default();
        marks.lock("s").unwrap().begin(&pin("p"), Some(&good)).unwrap().end(PinOutcome::Accepted).unwrap();
        marks.lock("s").unwrap().begin(&pin("p"), None).unwrap().end(PinOutcome::Accepted).unwrap();
    }

    #[test]
    fn what_others_could_have_written_is_refused() {
        let (_directory, marks) = directory();
        reject(&marks, "s", "wrong");
        let set = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        let key = marks.directory().join(KEY);
        let refused = || marks.lock("s").map(drop).unwrap_err().detail;
        set(marks.directory(), 0o750);
        assert!(refused().contains("open to others (mode 0750)"));
        set(marks.directory(), 0o700);
        set(&key, 0o640);
        assert!(refused().contains("open to others"));
        set(&key, 0o600);
        std::fs::write(&key, b"short").unwrap();
        assert!(refused().contains("32 bytes"));
        std::fs::remove_file(&key).unwrap();
        std::fs::write(marks.directory().join(file_name("s")), b"{}").unwrap();
        assert!(refused().contains("is damaged"));
        assert_eq!(marks.forget("s").unwrap(), 0);
        marks.lock("s").unwrap();
        // A link to somebody else's file is not followed.
        std::fs::remove_file(&key).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &key).unwrap();
        marks.lock("s").map(drop).unwrap_err();
    }
}
