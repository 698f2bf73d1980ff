//! Signed tree heads: every interval the tree over the records on stable storage is signed in the token, kept as a file and
//! written into the log itself, so that every copy of the log is a witness. Off the writer's thread: a token that is away
//! delays no request. Source: audit.md §7.5.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use serde_json::json;
use tokio::sync::{Mutex, watch};

use super::leaves::Grown;
use super::segment::now_micros;
use super::verify::line::CHECKPOINT;
use super::verify::note;
use super::verify::tree::{Frontier, Hash};
use super::{AuditError, AuditKey, BoxFuture, CoverAudit, Event, Journal, KeyUse, SignAudit, SignError, files};

/// A signed tree head.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    pub size: u64,
    pub root: Hash,
    /// The signed note.
    pub note: String,
    pub key: Arc<AuditKey>,
    /// Milliseconds since the epoch.
    pub at: i64,
}

/// Why there is no new checkpoint. Tried again after the interval.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CheckpointError {
    #[error("{0}")]
    Sign(#[from] SignError),
    /// What is in the files is not what the writer wrote, or not what was signed last: this tree is not signed.
    #[error("the journal's files no longer hold the records that were written: {0}")]
    Inconsistent(String),
    #[error("the checkpoint cannot be kept: {0}")]
    Keep(String),
    #[error("the checkpoint was not recorded: {0}")]
    Record(#[from] AuditError),
}

/// Makes checkpoints, one at a time, and remembers the last.
pub struct Checkpoints {
    journal: Journal,
    signer: Arc<dyn SignAudit>,
    origin: String,
    state: Mutex<State>,
    last: watch::Sender<Option<Arc<Checkpoint>>>,
    failures: AtomicU64,
    covered: AtomicU64,
}

struct State {
    /// The tree that was signed last. RULE audit.md §7.5: none that is smaller, or does not begin with it, is signed.
    signed: Grown,
    /// Records that the last checkpoint covers which was kept and recorded.
    covered: u64,
    /// It was said that the files changed.
    told: bool,
}

impl Checkpoints {
    /// `signed`: what recovery found the newest checkpoint to be signed over.
    pub fn new(journal: Journal, signer: Arc<dyn SignAudit>, signed: Option<Frontier>) -> Checkpoints {
        let trail_arn = &journal.settings().trail_arn;
        let origin = note::origin(trail_arn).unwrap_or_else(|| trail_arn.clone());
        let signed = signed.unwrap_or_default();
        let covered = signed.size();
        let signed = Grown::new(journal.settings().dir.join("journal"), signed);
        let state = Mutex::new(State { signed, covered, told: false });
        Checkpoints {
            journal,
            signer,
            origin,
            state,
            last: watch::Sender::new(None),
            failures: AtomicU64::new(0),
            covered: AtomicU64::new(covered),
        }
    }

    /// Signs the tree of what is on stable storage, if there are records that need it. `None`: there are none.
    pub async fn write(&self) -> Result<Option<Arc<Checkpoint>>, CheckpointError> {
        let mut state = self.state.lock().await;
        let written = self.write_if_news(&mut state).await;
        if let Err(error) = &written {
            self.failures.fetch_add(1, Ordering::Relaxed);
            tracing::error!(%error, "no checkpoint of the audit log, another try follows");
            if matches!(error, CheckpointError::Inconsistent(_)) && !state.told {
                let details = json!({"what": error.to_string()});
                state.told = self.journal.append(self.event("AuditTampering", details)).await.is_ok();
            }
        }
        written
    }

    async fn write_if_news(&self, state: &mut State) -> Result<Option<Arc<Checkpoint>>, CheckpointError> {
        let head = self.journal.head();
        if head.news <= state.covered {
            return Ok(None);
        }
        let grown = self.consistent(&state.signed, &head.tree).await?;
        let (size, root) = (head.tree.size(), head.tree.root());
        let text = note::body(&self.origin, size, &root);
        let signed = self.signer.sign(KeyUse::Checkpoint, text.clone().into_bytes()).await?;
        let key_id = note::key_id(&signed.key.spki);
        let note = format!("{text}\n{}", note::signature_line(&self.origin, key_id, &signed.signature));
        // Once signed, this is what every later tree has to begin with, whatever becomes of the file.
        state.signed = grown;
        let dir = self.journal.settings().dir.clone();
        let kept = note.clone();
        blocking(move || files::write_checkpoint(&dir, size, &kept))
            .await
            .map_err(|e| CheckpointError::Keep(e.to_string()))?;
        let at = now_micros().div_euclid(1000);
        let checkpoint = Arc::new(Checkpoint { size, root, note, key: signed.key, at });
        self.last.send_replace(Some(checkpoint.clone()));
        let details = json!({"size": size, "root": hex::encode(root), "note": checkpoint.note});
        self.journal.append(self.event(CHECKPOINT, details)).await?;
        state.covered = size;
        self.covered.store(size, Ordering::Relaxed);
        Ok(Some(checkpoint))
    }

    /// The signer's own look: the files themselves, from the last signed tree on, have to give the writer's tree.
    async fn consistent(&self, signed: &Grown, tree: &Frontier) -> Result<Grown, CheckpointError> {
        let (before, size) = (signed.tree.size(), tree.size());
        if size < before {
            return Err(CheckpointError::Inconsistent(format!("{size} records where {before} were signed")));
        }
        let mut grown = signed.clone();
        let looked = blocking(move || match grown.grow(size) {
            Ok(()) => Ok(Ok(grown)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Err(error.to_string())),
            Err(error) => Err(error),
        });
        match looked.await {
            Ok(Ok(grown)) if grown.tree == *tree => Ok(grown),
            Ok(Ok(_)) => {
                Err(CheckpointError::Inconsistent(format!("a record between {before} and {size} was changed")))
            }
            Ok(Err(what)) => Err(CheckpointError::Inconsistent(what)),
            Err(error) => Err(CheckpointError::Keep(format!("the journal cannot be read: {error}"))),
        }
    }

    /// A checkpoint every `interval`, the first at once, until `stopped`; the last one is the caller's.
    pub async fn keep(&self, interval: Duration, mut stopped: watch::Receiver<bool>) {
        loop {
            // A failure is logged and counted already.
            let _ = self.write().await;
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                _ = stopped.changed() => return,
            }
        }
    }

    /// The newest one of this process.
    pub fn last(&self) -> Option<Arc<Checkpoint>> {
        self.last.borrow().clone()
    }

    /// The same, for whoever waits for the next.
    pub fn watch(&self) -> watch::Receiver<Option<Arc<Checkpoint>>> {
        self.last.subscribe()
    }

    /// Records that the newest one covers, of this run or an earlier one.
    pub fn covered(&self) -> u64 {
        self.covered.load(Ordering::Relaxed)
    }

    /// For the keeper of the keys, which it must not keep alive: it has its signer from there.
    pub fn coverer(self: &Arc<Self>) -> Arc<dyn CoverAudit> {
        Arc::new(Coverer(Arc::downgrade(self)))
    }

    /// Tries that failed, for the metrics.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    fn event(&self, name: &str, details: serde_json::Value) -> Event {
        self.journal.event(name, now_micros().div_euclid(1000), details)
    }
}

struct Coverer(Weak<Checkpoints>);

impl CoverAudit for Coverer {
    fn cover(&self, key_use: KeyUse, seq: u64) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            // Digests have another maker.
            if key_use != KeyUse::Checkpoint {
                return Ok(());
            }
            let checkpoints = self.0.upgrade().ok_or("the service ends")?;
            if checkpoints.covered() > seq {
                return Ok(());
            }
            match checkpoints.write().await {
                Ok(_) => Ok(()),
                Err(error) => Err(format!("no checkpoint covers the record: {error}")),
            }
        })
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
