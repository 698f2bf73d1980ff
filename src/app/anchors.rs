//! Heads of the log outside of its directory: in an object of the token, and under the stamp of an RFC 3161 authority. Both
//! follow the newest signed note in `checkpoints/`, and neither ever holds anything up.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;
use tokio::sync::{Mutex, watch};

use super::{AppError, now_ms, system_call};
use crate::audit::timestamp::{LARGEST_RESPONSE, TimeStampRequest};
use crate::audit::verify::note::{self, Note};
use crate::audit::{Journal, KeyUse, SignAudit};
use crate::client::timestamp;
use crate::keystore::{CallContext, DataName, ErrorClass, Token};
use crate::ops::AUDIT_HEAD;

/// How often it is looked for a new checkpoint.
const LOOK: Duration = Duration::from_secs(5);
/// RULE audit.md §7.5: the memory of a token wears out.
const WRITE_EVERY: Duration = Duration::from_secs(300);
/// After it was refused.
const WRITE_AGAIN: Duration = Duration::from_secs(60);
const DEADLINE: Duration = Duration::from_secs(15);
const STAMP_EVERY: Duration = Duration::from_secs(24 * 3600);
/// After an authority did not answer.
const STAMP_AGAIN: Duration = Duration::from_secs(3600);

pub(super) struct Anchors {
    pub token: Token,
    pub signer: Arc<dyn SignAudit>,
    pub journal: Journal,
    /// The trail's.
    pub dir: PathBuf,
    pub trail_arn: String,
    /// `CKA_APPLICATION`: several instances may share a token.
    pub deployment: String,
    pub in_token: bool,
    pub timestamp_url: Option<String>,
    pub state: State,
}

#[derive(Default)]
pub(super) struct State {
    /// The token keeps no such objects: said once.
    unsupported: AtomicBool,
    /// The note that the token has, and when it was written.
    written: Mutex<Option<(String, Instant)>>,
    /// Not before this: the token refused the last one.
    next: Mutex<Option<Instant>>,
}

impl Anchors {
    /// Compares the log with the head in the token. Fewer records than it says, or others, is no log to go on with.
    pub(super) async fn at_start(&self) -> Result<(), AppError> {
        if !self.in_token {
            return Ok(());
        }
        let found = match self.token.read_data(&self.call(), &self.name()).await {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(%error, "the head of the log in the token cannot be read: the log is not compared with it");
                return Ok(());
            }
        };
        // Two after a crash: the larger is the newer.
        let found = found.iter().filter_map(|text| Some((std::str::from_utf8(text).ok()?, text)));
        let newest =
            found.filter_map(|(text, _)| Some((Note::parse(text).ok()?, text))).max_by_key(|(note, _)| note.size);
        let Some((note, text)) = newest else { return Ok(()) };
        if !self.is_ours(&note) {
            tracing::error!("the head of the log in the token is not signed by a key of this trail: it was replaced");
            let details = json!({ "object": AUDIT_HEAD, "what": "not signed by a key of this trail", "note": text });
            self.journal.append(self.journal.event("AuditTampering", now_ms(), details)).await?;
            return Ok(());
        }
        self.journal.compare_head("the object in the token", note.size, note.root).await?;
        *self.state.written.lock().await = Some((text.to_owned(), Instant::now()));
        Ok(())
    }

    /// Until `stopped`; the last one is written then.
    pub(super) async fn keep(self: Arc<Self>, mut stopped: watch::Receiver<bool>) {
        let mut stamp_next = Instant::now();
        loop {
            self.write(WRITE_EVERY).await;
            if self.timestamp_url.is_some() && Instant::now() >= stamp_next {
                stamp_next = Instant::now()
                    + match self.stamp_if_due().await {
                        Ok(wait) => wait,
                        Err(error) => {
                            tracing::error!(error, "no time stamp on the log's head, another try follows in an hour");
                            STAMP_AGAIN
                        }
                    };
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                _ = stopped.changed() => return,
            }
        }
    }

    /// The newest note into the token, unless the last one is younger than `every`.
    pub(super) async fn write(&self, every: Duration) {
        if !self.in_token || self.state.unsupported.load(Ordering::Relaxed) {
            return;
        }
        let Some((_, text)) = self.newest() else { return };
        let mut written = self.state.written.lock().await;
        if written.as_ref().is_some_and(|(known, at)| *known == text || at.elapsed() < every) {
            return;
        }
        let mut next = self.state.next.lock().await;
        if !every.is_zero() && next.is_some_and(|next| Instant::now() < next) {
            return;
        }
        match self.token.write_data(&self.call(), &self.name(), text.clone().into_bytes()).await {
            Ok(()) => *written = Some((text, Instant::now())),
            Err(error) if error.class == ErrorClass::Unsupported => {
                self.state.unsupported.store(true, Ordering::Relaxed);
                tracing::warn!(%error, "this token keeps no data objects: the head of the log is not kept in it; set `[audit] anchor_in_token = false`");
            }
            Err(error) => {
                tracing::warn!(%error, "the head of the log was not written into the token, another try follows");
                *next = Some(Instant::now() + WRITE_AGAIN);
            }
        }
    }

    /// One stamp a day. How long until the next look.
    async fn stamp_if_due(&self) -> Result<Duration, String> {
        let Some(url) = &self.timestamp_url else { return Ok(STAMP_EVERY) };
        // Nothing is signed yet.
        let Some((name, text)) = self.newest() else { return Ok(LOOK) };
        let dir = self.dir.join("anchors");
        if let Some(age) = youngest_stamp(&dir)
            && age < STAMP_EVERY
        {
            return Ok(STAMP_EVERY.saturating_sub(age));
        }
        let mut nonce = [0; 8];
        getrandom::fill(&mut nonce).map_err(|error| error.to_string())?;
        let request = TimeStampRequest::over(text.as_bytes(), nonce).ok_or("the request cannot be encoded")?;
        let response = timestamp::stamp(url, request.der.clone(), LARGEST_RESPONSE).await?;
        request.is_answered_by(&response)?;
        let kept = keep(&dir, &format!("{name}.tsq"), &request.der)
            .and_then(|()| keep(&dir, &format!("{name}.tsr"), &response));
        kept.map_err(|error| format!("the stamp cannot be kept: {error}"))?;
        tracing::info!(checkpoint = name, "the log's head has a time stamp");
        Ok(STAMP_EVERY)
    }

    /// File name and text of the newest signed note.
    fn newest(&self) -> Option<(String, String)> {
        let checkpoints = self.dir.join("checkpoints");
        let name = fs::read_link(checkpoints.join("latest")).ok()?.file_name()?.to_str()?.to_owned();
        let text = fs::read_to_string(checkpoints.join(&name)).ok()?;
        Some((name, text))
    }

    fn is_ours(&self, found: &Note) -> bool {
        if note::origin(&self.trail_arn).is_some_and(|origin| origin != found.origin) {
            return false;
        }
        let keys = self.signer.keys();
        let mut keys = keys.iter().filter(|key| key.key_use == KeyUse::Checkpoint);
        keys.any(|key| {
            let mut signatures = found.signatures.iter().filter(|line| line.key_id == note::key_id(&key.spki));
            signatures.any(|line| KeyUse::Checkpoint.verifies(&key.spki, found.text.as_bytes(), &line.signature))
        })
    }

    fn name(&self) -> DataName {
        DataName { label: AUDIT_HEAD.to_owned(), application: self.deployment.clone() }
    }

    fn call(&self) -> CallContext {
        CallContext { principal: "audit".into(), ..system_call("audit-anchor", DEADLINE) }
    }
}

/// How old the newest answer of the authority is.
fn youngest_stamp(dir: &std::path::Path) -> Option<Duration> {
    let entries = fs::read_dir(dir).ok()?.filter_map(Result::ok);
    let stamps = entries.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "tsr"));
    let newest = stamps.filter_map(|entry| entry.metadata().ok()?.modified().ok()).max()?;
    SystemTime::now().duration_since(newest).ok()
}

fn keep(dir: &std::path::Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    if !dir.exists() {
        fs::DirBuilder::new().recursive(true).mode(0o750).create(dir)?;
    }
    let new = dir.join(format!("{name}.new"));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(new, dir.join(name))?;
    fs::File::open(dir)?.sync_all()
}
