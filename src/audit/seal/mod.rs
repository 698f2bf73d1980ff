//! Sealed files: the journal as CloudTrail log files and signed digests, which the stock AWS CLI validates, and their
//! retention. Blocking: one thread does it, beside the journal's writer. Whatever fails is forgotten and found again in the
//! journal and in the bucket, as after a crash. Source: audit.md §2.1 to §2.3, §2.8, §7.4.

pub mod archive;
mod digest;
mod live;
mod logfile;
mod names;
mod retention;
mod state;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::files;
use super::follow::Follower;
use super::record;
use super::signer::{AuditKey, KeyUse, SignError, Signed};
use digest::{Facts, SignedDigest};
use logfile::{Draft, SealedFile};
use names::Place;
use state::{Found, Orphan};

pub use live::Live;
pub use retention::{Gone, Plan};

#[derive(Debug, Clone)]
pub struct Settings {
    /// The trail's directory.
    pub dir: PathBuf,
    pub account: String,
    pub region: String,
    pub trail: String,
    pub bucket: String,
    pub key_prefix: Option<String>,
    /// See `config::Audit`.
    pub retention: Duration,
    pub retention_bytes: Option<u64>,
    pub retention_floor: Duration,
    pub journal_retention: Duration,
    pub legal_hold: bool,
}

/// What sealing needs of the service around it. Tests let it die between any two of its steps.
pub trait Around {
    /// A record of the log about itself, durable when this returns.
    fn append(&self, name: &str, details: Value) -> Result<u64, String>;
    /// Records on stable storage.
    fn durable(&self) -> u64;
    fn publish(&self, root: &Path, object: &str, bytes: &[u8]) -> io::Result<()> {
        files::publish(root, object, bytes)
    }
    fn remove(&self, root: &Path, name: &str) -> io::Result<()> {
        files::remove(root, name)
    }
    /// With the digest key.
    fn sign(&self, message: Vec<u8>) -> Result<Signed, SignError>;
    fn keys(&self) -> Vec<Arc<AuditKey>>;
    /// Milliseconds since the epoch.
    fn now(&self) -> i64;
    /// Of the copies that others are sent, the one that is furthest behind.
    fn behind(&self) -> Option<Behind> {
        None
    }
    /// Room is short: what may go does not wait for copies.
    fn is_low(&self) -> bool {
        false
    }
}

/// How far a copy of the log is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behind {
    pub name: String,
    /// The first record that it may not have.
    pub next: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The journal takes no record, or a record of it does not parse.
    #[error("the audit log: {0}")]
    Log(String),
    #[error("{0}")]
    Sign(#[from] SignError),
}

/// Numbers for the metrics. Times in seconds since the epoch, 0 where there was none.
#[derive(Debug, Default)]
pub struct Status {
    pub last_seal: AtomicI64,
    /// `digestEndTime` of the newest digest.
    pub last_digest: AtomicI64,
    pub failures: AtomicU64,
    /// Segments of the journal that only stay until a sink has their records.
    pub held: AtomicU64,
}

/// How far the log is sealed.
struct State {
    follower: Follower,
    /// Lines that are in no file yet.
    draft: Draft,
    /// Sealed, and in no digest yet.
    files: Vec<SealedFile>,
    last: Option<SignedDigest>,
    /// A digest that a crash left without its record was looked for.
    digests_known: bool,
}

pub struct Sealer<A> {
    settings: Settings,
    place: Place,
    around: A,
    state: Option<State>,
    status: Arc<Status>,
}

impl<A: Around> Sealer<A> {
    pub fn new(settings: Settings, around: A, status: Arc<Status>) -> Sealer<A> {
        let place = Place {
            account: settings.account.clone(),
            region: settings.region.clone(),
            trail: settings.trail.clone(),
            prefix: settings.key_prefix.clone(),
        };
        Sealer { settings, place, around, state: None, status }
    }

    /// Seals what is durable and in no file yet, where it is more than records of the log about itself. Returns the number
    /// of new files.
    pub fn seal(&mut self) -> Result<usize, SealError> {
        let done = self.try_seal();
        self.watched(done)
    }

    /// Signs a digest over everything that was sealed since the one before.
    pub fn digest(&mut self) -> Result<(), SealError> {
        let done = self.try_seal().and_then(|_| self.try_digest());
        self.watched(done)
    }

    /// When the newest digest ended, seconds since the epoch; `None`: there is none.
    pub fn last_digest(&mut self) -> Result<Option<i64>, SealError> {
        let end = self.state().map(|state| state.last.as_ref().and_then(|last| unix(&last.end)));
        self.watched(end)
    }

    fn watched<T>(&mut self, done: Result<T, SealError>) -> Result<T, SealError> {
        match &done {
            Ok(_) => {}
            // Nothing was begun: what is known stays true.
            Err(SealError::Sign(_)) => _ = self.status.failures.fetch_add(1, Ordering::Relaxed),
            Err(_) => {
                self.state = None;
                self.status.failures.fetch_add(1, Ordering::Relaxed);
            }
        }
        done
    }

    fn root(&self) -> PathBuf {
        self.settings.dir.join("bucket")
    }

    fn state(&mut self) -> Result<&mut State, SealError> {
        if self.state.is_none() {
            let state = self.find()?;
            if let Some(end) = state.last.as_ref().and_then(|last| unix(&last.end)) {
                self.status.last_digest.store(end, Ordering::Relaxed);
            }
            self.state = Some(state);
        }
        self.state.as_mut().ok_or_else(|| SealError::Log("its sealed part is not known".to_owned()))
    }

    fn find(&mut self) -> Result<State, SealError> {
        let dir = self.settings.dir.clone();
        let mut found = Found::read(&dir)?;
        let durable = self.around.durable();
        let oldest = Follower::new(&dir, 0).oldest()?.unwrap_or(0);
        let position = found.position(oldest);
        let tree = state::tree(&dir, found.digest.as_ref(), position, durable)?;
        let mut draft = Draft::new(position, tree);
        match state::orphan(&dir, draft.clone(), position, durable, &self.settings.bucket, &self.place)? {
            Orphan::None => {}
            Orphan::Whole(file, next) => {
                self.record_file(&file)?;
                draft = draft_after(&file, &next);
                found.files.push(file);
            }
            Orphan::Foreign(object) => self.set_aside(&object)?,
        }
        let follower = Follower::new(&dir, draft.first_seq());
        Ok(State { follower, draft, files: found.files, last: found.digest, digests_known: false })
    }

    fn try_seal(&mut self) -> Result<usize, SealError> {
        let durable = self.around.durable();
        let mut made = 0;
        loop {
            let state = self.state()?;
            let expected = state.follower.position();
            let Some(next) = state.follower.next(durable)? else { break };
            if next.seq != expected {
                made += usize::from(self.go_on_behind_a_gap(expected, next.seq)?);
            }
            let state = self.state()?;
            if state.draft.is_full_for(&next.line) {
                self.finish()?;
                made += 1;
            }
            self.state()?.draft.add(&next.line).map_err(SealError::Log)?;
        }
        if self.state()?.draft.is_worth_a_file() {
            self.finish()?;
            made += 1;
        }
        Ok(made)
    }

    /// Records that are gone cannot be sealed: what follows them is, and `audit verify` tells of the gap.
    fn go_on_behind_a_gap(&mut self, expected: u64, found: u64) -> Result<bool, SealError> {
        tracing::error!(expected, found, "records of the audit log are missing: they are in no sealed file");
        let sealed = !self.state()?.draft.is_empty();
        if sealed {
            self.finish()?;
        }
        self.state()?.draft = Draft::new(found, None);
        Ok(sealed)
    }

    /// The draft becomes a file: the object first, then its record. In between, `state::orphan` finds it.
    fn finish(&mut self) -> Result<(), SealError> {
        let state = self.state()?;
        let draft = std::mem::replace(&mut state.draft, Draft::new(0, None));
        let (bytes, file, next) = draft.finish(&self.settings.bucket, &self.place);
        self.around.publish(&self.root(), &file.object, &logfile::gzip(&bytes)?)?;
        self.record_file(&file)?;
        let state = self.state()?;
        state.draft = next;
        state.files.push(file);
        Ok(())
    }

    fn record_file(&self, file: &SealedFile) -> Result<(), SealError> {
        let details = self.with_stored(file, &file.object)?;
        self.around.append("LogFile", details).map_err(SealError::Log)?;
        self.status.last_seal.store(self.around.now().div_euclid(1000), Ordering::Relaxed);
        Ok(())
    }

    fn try_digest(&mut self) -> Result<(), SealError> {
        self.adopt_digest()?;
        let now = self.around.now().div_euclid(1000);
        let (dir, root) = (self.settings.dir.clone(), self.root());
        let state = self.state()?;
        // RULE audit.md §2.8: contiguous, over restarts too; no two with one end.
        let start = match &state.last {
            Some(last) => last.end.clone(),
            None => first_time(&dir)?,
        };
        let began = unix(&start).ok_or_else(|| SealError::Log(format!("`{start}` is no time")))?;
        let end = text(now.max(began + 1));
        let (files, last) = (state.files.clone(), state.last.clone());
        let sealed_to = state.draft.first_seq();
        let tree = state.draft.sealed_tree().cloned();
        let checkpoint = std::fs::read_to_string(dir.join("checkpoints/latest")).ok();
        let object = self.place.digest(&end);
        let facts = Facts {
            account: &self.settings.account,
            instance: &self.settings.trail,
            bucket: &self.settings.bucket,
            object: &object,
            start: &start,
            end: &end,
            previous: last.as_ref(),
            files: &files,
            sealed_to,
            tree: tree.as_ref(),
            checkpoint: checkpoint.as_deref(),
        };
        let (json, signed) = self.signed(&facts)?;
        let digest = SignedDigest {
            bucket: self.settings.bucket.clone(),
            object: object.clone(),
            sha256: logfile::sha256(&json),
            signature: hex::encode(&signed.signature),
            fingerprint: signed.key.fingerprint.clone(),
            start: start.clone(),
            end: end.clone(),
            sealed_to,
            tree_peaks: tree.as_ref().map(|tree| tree.peaks().iter().map(hex::encode).collect()),
        };
        let sidecar =
            digest::Sidecar { signature: digest.signature.clone(), signature_algorithm: "SHA256withRSA".to_owned() };
        let sidecar = serde_json::to_vec(&sidecar).map_err(io::Error::other)?;
        // The signature first: where the digest is, it is signed.
        self.around.publish(&root, &format!("{object}.meta"), &sidecar)?;
        self.around.publish(&root, &object, &logfile::gzip(&json)?)?;
        self.record_digest(digest)
    }

    /// The digest names the key that signs it, and only the signature tells which that was.
    fn signed(&self, facts: &Facts<'_>) -> Result<(Vec<u8>, Signed), SealError> {
        let keys = self.around.keys();
        let of_digests = || keys.iter().filter(|key| key.key_use == KeyUse::Digest);
        let current = of_digests().filter(|key| key.valid_until.is_none()).min_by_key(|key| key.generation);
        let mut fingerprint = current.map_or_else(String::new, |key| key.fingerprint.clone());
        for _ in 0..3 {
            // The old key's last digest covers the record that introduces the new one.
            let next = facts.files.iter().rev().find_map(|file| file.announced_key.as_deref());
            let json = facts.json(&fingerprint, next.filter(|next| *next != fingerprint));
            let signed = self.around.sign(facts.signed_text(&json).into_bytes())?;
            if signed.key.fingerprint == fingerprint {
                return Ok((json, signed));
            }
            fingerprint.clone_from(&signed.key.fingerprint);
        }
        Err(SignError("the key changes too often".to_owned()).into())
    }

    /// The facts of an object's record, and the hash of its bytes as they are stored: bits of a gzip stream that change nothing of
    /// the content are seen by no other hash.
    fn with_stored(&self, facts: &impl serde::Serialize, object: &str) -> Result<serde_json::Value, SealError> {
        let mut details = serde_json::to_value(facts).map_err(|error| SealError::Log(error.to_string()))?;
        let stored = logfile::sha256(&std::fs::read(self.root().join(object))?);
        if let Some(details) = details.as_object_mut() {
            details.insert("storedSha256".to_owned(), stored.into());
        }
        Ok(details)
    }

    fn record_digest(&mut self, digest: SignedDigest) -> Result<(), SealError> {
        let details = self.with_stored(&digest, &digest.object)?;
        self.around.append("Digest", details).map_err(SealError::Log)?;
        self.status.last_digest.store(unix(&digest.end).unwrap_or(0), Ordering::Relaxed);
        let state = self.state()?;
        state.files.retain(|file| file.first_seq >= digest.sealed_to);
        state.last = Some(digest);
        Ok(())
    }

    /// A digest that was written right before a crash has no record yet. It is ours where our key signed it, it continues
    /// the chain, and it lists the first files that wait to be listed: others may have been sealed since.
    fn adopt_digest(&mut self) -> Result<(), SealError> {
        let root = self.root();
        let state = self.state()?;
        if std::mem::replace(&mut state.digests_known, true) {
            return Ok(());
        }
        let end = state.last.as_ref().map_or(String::new(), |last| names::compact(&last.end));
        let newer: Vec<String> = archive::objects(&root)?
            .into_iter()
            .filter(|object| {
                names::parse(object)
                    .is_some_and(|name| name.kind == names::Kind::Digest && name.time > end.trim_end_matches('Z'))
            })
            .collect();
        for object in newer {
            match self.read_orphan(&object)? {
                Some(digest) => self.record_digest(digest)?,
                None => {
                    self.set_aside(&object)?;
                    let _ = files::set_aside(&root, &format!("{object}.meta"), &self.stamp());
                }
            }
        }
        Ok(())
    }

    fn read_orphan(&self, object: &str) -> Result<Option<SignedDigest>, SealError> {
        let (Some(state), root) = (self.state.as_ref(), self.root()) else { return Ok(None) };
        let Ok(json) = archive::unpacked(&root, object) else { return Ok(None) };
        let Some((read, signature)) = retention::signed_digest(&root, object, &json, &self.around.keys()) else {
            return Ok(None);
        };
        let last = state.last.as_ref();
        let waiting = state.files.get(..read.log_files.len()).unwrap_or_default();
        let listed = read.log_files.iter().map(|file| (&file.s3_object, &file.hash_value));
        let continues = read.previous_digest_signature.as_ref() == last.map(|last| &last.signature)
            && last.is_none_or(|last| last.end == read.digest_start_time)
            && listed.eq(waiting.iter().map(|file| (&file.object, &file.sha256)));
        if !continues {
            return Ok(None);
        }
        let before = match (last, state.files.first()) {
            (Some(last), _) => last.sealed_to,
            (None, first) => first.map_or(state.draft.first_seq(), |file| file.first_seq),
        };
        let sealed_to = waiting.last().map_or(before, |file| file.last_seq + 1);
        let tree = state::tree(&self.settings.dir, last, sealed_to, self.around.durable())?;
        Ok(Some(SignedDigest {
            bucket: read.digest_s3_bucket,
            object: read.digest_s3_object,
            sha256: logfile::sha256(&json),
            signature,
            fingerprint: read.digest_public_key_fingerprint,
            start: read.digest_start_time,
            end: read.digest_end_time,
            sealed_to,
            tree_peaks: tree.map(|tree| tree.peaks().iter().map(hex::encode).collect()),
        }))
    }

    /// An object that stands where ours belongs, and is not what it says.
    fn set_aside(&self, object: &str) -> Result<(), SealError> {
        let to = files::set_aside(&self.root(), object, &self.stamp())?;
        tracing::error!(object, to = %to.display(), "an object in the audit bucket is not the journal's: set aside");
        let details = json!({
            "object": object,
            "what": "its content is not what the journal says, and no record names it",
            "movedTo": to.file_name().map(|name| name.to_string_lossy().into_owned()),
        });
        self.around.append("AuditTampering", details).map_err(SealError::Log)?;
        Ok(())
    }

    fn stamp(&self) -> String {
        names::compact(&text(self.around.now().div_euclid(1000)))
    }
}

/// The draft as it begins behind `file`; the adopted file's own draft may hold intents behind it, which are read again.
fn draft_after(file: &SealedFile, next: &Draft) -> Draft {
    Draft::new(file.last_seq + 1, next.sealed_tree().cloned())
}

/// When the oldest record of the journal was written, to the second.
fn first_time(dir: &Path) -> Result<String, SealError> {
    let first = Follower::new(dir, 0).next(u64::MAX)?;
    let first = first.ok_or_else(|| SealError::Log("it has no record".to_owned()))?;
    let line = super::verify::line::Line::parse(&first.line).map_err(SealError::Log)?;
    Ok(format!("{}Z", line.place().time.get(..19).unwrap_or_default()))
}

/// `2026-03-04T10:00:00Z`
fn text(unix: i64) -> String {
    format!("{}Z", record::seconds(unix))
}

fn unix(text: &str) -> Option<i64> {
    use time::format_description::well_known::Rfc3339;
    time::OffsetDateTime::parse(text, &Rfc3339).ok().map(time::OffsetDateTime::unix_timestamp)
}

#[cfg(test)]
mod tests;
