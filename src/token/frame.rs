//! Frames between the service and the worker process that holds a token: a length (4 bytes, little endian) and a body in
//! postcard. Both ends are of one version, which the first frame says; what the other end says is judged all the same, since the vendor's library runs there.
//! Frames carry PINs and plaintexts: every buffer is wiped.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::call::{About, Answer, Request};
use super::guard::{LoginVerdict, PinTag};
use super::handles::Proofs;
use super::{Change, Looked, MaterialId, Selector, Settings, SlotFacts, Status, SystemKey, TokenError, TokenInfo};
use crate::secret::SecretString;

/// Longest frame to a worker: requests, and places in pieces.
pub(super) const TO_WORKER: usize = 4 << 20;
/// Longest frame from a worker: the objects of a full token.
pub(super) const FROM_WORKER: usize = 64 << 20;

/// The numbers in a frame mean another thing in another version.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

const HEADER: usize = 4;
const FIRST_ROOM: usize = 64 << 10;

/// What the service says to a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToWorker {
    /// First of all: the service's version.
    Hello(String),
    /// Map the module, and no more: C_Initialize is left to `Open`.
    Load {
        module: PathBuf,
    },
    /// Connect; once per worker. The PIN is asked for with `Login`.
    Open {
        generation: u64,
        settings: Box<Settings>,
        guard: Guard,
        /// What the bridge's own keys were for the worker before.
        proofs: Proofs,
    },
    Ask {
        id: u64,
        question: Question,
    },
    Call {
        id: u64,
        generation: u64,
        /// Until nobody waits any more.
        micros: u64,
        request_id: Arc<str>,
        request: Request,
    },
    Login(LoginStep),
    ChangePin {
        id: u64,
        guard: Guard,
    },
    Place(Vec<(MaterialId, Vec<u8>)>),
    GiveUp(MaterialId),
    Ping(u64),
    Close,
}

/// What a worker says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromWorker {
    Opened {
        generation: u64,
        about: Box<About>,
        /// Its sessions.
        workers: usize,
    },
    OpenFailed {
        generation: u64,
        error: TokenError,
    },
    Told {
        id: u64,
        result: Result<Told, TokenError>,
    },
    Login(LoginAsk),
    Answer {
        id: u64,
        generation: u64,
        subject: Subject,
        result: Result<Answer, TokenError>,
    },
    PinChanged {
        id: u64,
        result: Result<(), TokenError>,
    },
    Pong {
        number: u64,
        health: Option<Health>,
    },
}

/// A question to a module, for which nobody logs in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Question {
    Look { module: PathBuf, selector: Selector },
    Certificate { module: PathBuf, selector: Selector, label: String },
    Slots { module: PathBuf },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Told {
    Looked(Looked),
    Certificate(Option<Vec<u8>>),
    Slots(Vec<SlotFacts>),
}

/// A PIN that the service holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Guard {
    pub(super) id: u64,
    pub(super) tag: PinTag,
}

/// A login as the worker asks for it; one at a time.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum LoginAsk {
    /// Whether it would be refused at once.
    Refuse {
        guard: u64,
        serial: String,
    },
    Begin {
        guard: u64,
        serial: String,
    },
    Flags(Result<Option<TokenInfo>, TokenError>),
    Verdict(LoginVerdict),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum LoginStep {
    Flags,
    /// C_Login with this PIN, once; then it is forgotten.
    Try(#[serde(with = "secret_text")] SecretString),
    End(Result<(), TokenError>),
}

/// What a request is about: an answer says it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Subject {
    Token,
    Material(MaterialId),
    System(SystemKey),
}

/// How the connection in the worker is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Health {
    pub(super) status: Status,
    pub(super) queued: usize,
    pub(super) keygen_queued: usize,
    pub(super) sessions_replaced: u64,
    pub(super) debris: usize,
    pub(super) duplicates: usize,
    /// How the worker brings its token back.
    pub(super) recovery: super::Health,
    /// What happened to the token since the last time.
    pub(super) changes: Vec<Change>,
    /// For the next worker.
    pub(super) proofs: Proofs,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a frame of {0} bytes is too long")]
    TooLong(usize),
    #[error("a frame cannot be read")]
    Malformed,
    #[error("the connection ended")]
    Ended,
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
}

impl Subject {
    pub(super) fn of(request: &Request) -> Subject {
        use super::KeyRef;
        match request {
            Request::Generate { material, .. }
            | Request::Destroy { material }
            | Request::Holds { material }
            | Request::Adopt { material, .. } => Subject::Material(*material),
            Request::EnsureSystemKey { key } | Request::SystemPublicKey { key } => Subject::System(*key),
            _ => match request.key() {
                Some(KeyRef::Kms { material, .. }) => Subject::Material(*material),
                Some(KeyRef::System(key)) => Subject::System(*key),
                None => Subject::Token,
            },
        }
    }
}

/// The frame of a message, in a buffer of its exact length: one that grew would leave pieces in freed memory.
pub(super) fn encode<T: Serialize>(message: &T, limit: usize) -> Result<Zeroizing<Vec<u8>>, FrameError> {
    let size = postcard::ser_flavors::Size::default();
    let len = postcard::serialize_with_flavor(message, size).map_err(|_| FrameError::Malformed)?;
    if len > limit {
        return Err(FrameError::TooLong(len));
    }
    let header = u32::try_from(len).map_err(|_| FrameError::TooLong(len))?;
    let mut frame = Zeroizing::new(vec![0u8; HEADER + len]);
    let (head, body) = frame.split_at_mut(HEADER);
    head.copy_from_slice(&header.to_le_bytes());
    postcard::to_slice(message, body).map_err(|_| FrameError::Malformed)?;
    Ok(frame)
}

/// What came in and was not read yet.
pub(super) struct Inbox {
    buffer: Zeroizing<Vec<u8>>,
    start: usize,
    end: usize,
    limit: usize,
}

impl Inbox {
    pub(super) fn new(limit: usize) -> Inbox {
        Inbox { buffer: Zeroizing::new(vec![0; FIRST_ROOM]), start: 0, end: 0, limit }
    }

    /// The next message that is there as a whole.
    pub(super) fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let Some(len) = self.announced()? else { return Ok(None) };
        let body = self.start + HEADER..self.start + HEADER + len;
        if body.end > self.end {
            return Ok(None);
        }
        let (whole, bytes) = (self.start..body.end, self.buffer.get(body).unwrap_or_default());
        let message = match postcard::take_from_bytes(bytes) {
            Ok((message, [])) => message,
            _ => return Err(FrameError::Malformed),
        };
        self.start = whole.end;
        self.buffer.get_mut(whole).unwrap_or_default().zeroize();
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        Ok(Some(message))
    }

    /// Waits for the next message.
    pub(super) fn next<T: DeserializeOwned>(&mut self, source: &mut impl Read) -> Result<T, FrameError> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(message);
            }
            self.fill(source)?;
        }
    }

    /// One read.
    fn fill(&mut self, source: &mut impl Read) -> Result<(), FrameError> {
        self.make_room();
        let room = self.buffer.get_mut(self.end..).unwrap_or_default();
        match source.read(room) {
            Ok(0) => Err(FrameError::Ended),
            Ok(count) => {
                self.end = (self.end + count).min(self.buffer.len());
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Length of the body that comes next.
    fn announced(&self) -> Result<Option<usize>, FrameError> {
        let waiting = self.buffer.get(self.start..self.end).unwrap_or_default();
        let Some(header) = waiting.first_chunk::<HEADER>() else { return Ok(None) };
        match usize::try_from(u32::from_le_bytes(*header)) {
            Ok(len) if len <= self.limit => Ok(Some(len)),
            Ok(len) => Err(FrameError::TooLong(len)),
            Err(_) => Err(FrameError::TooLong(usize::MAX)),
        }
    }

    /// Grows with what has come, and not with what was announced: a header alone takes no memory.
    fn make_room(&mut self) {
        if self.end < self.buffer.len() {
            return;
        }
        let waiting = self.start..self.end;
        let len = waiting.len();
        if self.start > 0 && len <= self.buffer.len() / 2 {
            self.buffer.copy_within(waiting, 0);
            self.buffer.get_mut(len..).unwrap_or_default().zeroize();
        } else {
            let mut larger = Zeroizing::new(vec![0; self.buffer.len() * 2]);
            if let (Some(to), Some(from)) = (larger.get_mut(..len), self.buffer.get(waiting)) {
                to.copy_from_slice(from);
            }
            self.buffer = larger;
        }
        (self.start, self.end) = (0, len);
    }
}

/// Reads bytes as each end does, to the end or the first fault: tests/fuzz.
#[cfg(fuzzing)]
pub fn read_frames(bytes: &[u8]) {
    fn all<T: DeserializeOwned>(limit: usize, mut bytes: &[u8]) {
        let mut inbox = Inbox::new(limit);
        while inbox.next::<T>(&mut bytes).is_ok() {}
    }
    all::<ToWorker>(TO_WORKER, bytes);
    all::<FromWorker>(FROM_WORKER, bytes);
}

mod secret_text {
    use serde::de::{Deserialize, Deserializer};
    use serde::ser::Serializer;

    use crate::secret::SecretString;

    pub(super) fn serialize<S: Serializer>(value: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(value.expose())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretString, D::Error> {
        String::deserialize(deserializer).map(SecretString::new)
    }
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
