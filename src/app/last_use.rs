//! The last-use cache over restarts: read from `<state>/last-use`, brought up to date from the journal, saved while the
//! service runs. The file is sealed under a key derived from the store's: who used which key is nobody's business.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use tokio::sync::watch;

use super::{App, AppError, audit_directory};
use crate::audit::scan;
use crate::http::Services;
use crate::ids::KeyId;
use crate::ops::{LastUses, Ops, USES};
use crate::secret::associated_data;

const NAME: &str = "last-use";
/// First string of the associated data; the deployment and the trail follow.
const AAD_LABEL: &str = "hsm-bridge/last-use/1";
const NONCE_LEN: usize = 12;
/// Shortest time between two saves; a large cache is saved less often, so that saving stays a small share of the work.
const SAVE_EVERY: Duration = Duration::from_secs(60);
const SHARE_OF_TIME: u32 = 50;

/// Where the cache is, and what opens it.
#[derive(Clone)]
struct Place {
    file: PathBuf,
    cipher: Aes256Gcm,
    aad: Vec<u8>,
}

/// Loads the saved state and begins the replay of what it lacks, in the background. `last_seq`: of the log as it was found.
pub(super) fn begin(app: &App, last_seq: u64) -> Result<(), AppError> {
    let ops = app.services.ops.clone();
    let place = Place::of(&app.config.server.state_dir, &ops, &audit_directory(&app.config))?;
    let known = place.read().is_some_and(|bytes| ops.last_uses().load(&bytes, last_seq));
    let after = known.then(|| ops.last_uses().position());
    let dir = audit_directory(&app.config);
    tokio::task::spawn_blocking(move || replay(&ops, &dir, after, last_seq));
    Ok(())
}

/// Saves while the service runs, and once more at its end.
pub(super) async fn keep(
    services: Arc<Services>,
    state_dir: PathBuf,
    audit_dir: PathBuf,
    mut stopped: watch::Receiver<bool>,
) {
    let place = match Place::of(&state_dir, &services.ops, &audit_dir) {
        Ok(place) => place,
        Err(error) => {
            tracing::error!(%error, "last uses are not saved");
            return;
        }
    };
    let mut wait = SAVE_EVERY;
    // A use is noted right after its record is durable. What was noted one wait ago has nothing older on its way.
    let mut settled = services.ops.last_uses().position();
    loop {
        let ended = tokio::select! {
            () = tokio::time::sleep(wait) => false,
            _ = stopped.changed() => true,
        };
        let highest = services.ops.last_uses().highest_noted();
        if !ended {
            let (place, uses) = (place.clone(), services.ops.last_uses().clone());
            let began = Instant::now();
            let _ = tokio::task::spawn_blocking(move || place.save(&uses, settled)).await;
            wait = SAVE_EVERY.max(began.elapsed() * SHARE_OF_TIME);
            settled = highest;
            continue;
        }
        return;
    }
}

/// Everything was answered: what is noted is all there is.
pub(super) fn save_at_end(app: &App) {
    let uses = app.services.ops.last_uses();
    match Place::of(&app.config.server.state_dir, &app.services.ops, &audit_directory(&app.config)) {
        Ok(place) => place.save(uses, uses.highest_noted()),
        Err(error) => tracing::error!(%error, "last uses are not saved"),
    }
}

fn replay(ops: &Ops, dir: &Path, after: Option<u64>, last_seq: u64) {
    let began = Instant::now();
    let mut count = 0u64;
    let uses = ops.last_uses();
    let seen = scan::uses(dir, after, USES, |record| {
        count += 1;
        for arn in &record.resources {
            if let Some(key) = arn.rsplit_once(":key/").and_then(|(_, id)| id.parse::<KeyId>().ok()) {
                let ids = || [Arc::from(record.event_id.as_str()), Arc::from(record.request_id.as_str())];
                uses.note(key, &record.operation, &record.principal, record.at, ids);
            }
        }
    });
    match seen {
        Ok(seen) => {
            // Records that were written meanwhile are noted by their own requests, or were read twice: both are harmless.
            uses.completed(last_seq, seen.since);
            tracing::debug!(records = count, ms = began.elapsed().as_millis() as u64, "last uses are up to date");
        }
        Err(error) => tracing::error!(%error, "the audit log cannot be read: last uses stay unknown"),
    }
}

impl Place {
    fn of(state_dir: &Path, ops: &Ops, audit_dir: &Path) -> Result<Place, AppError> {
        let key = ops.store().derive("last-use");
        let cipher = Aes256Gcm::new_from_slice(key.expose())
            .map_err(|_| AppError::Refused("the key of the last-use cache has a wrong length".to_owned()))?;
        let trail = audit_dir.file_name().unwrap_or_default().to_string_lossy();
        let aad = associated_data(&[AAD_LABEL, ops.store().deployment_id(), &trail]);
        Ok(Place { file: state_dir.join(NAME), cipher, aad })
    }

    /// `None`: there is none that opens; the journal has it all.
    fn read(&self) -> Option<Vec<u8>> {
        let bytes = std::fs::read(&self.file).ok()?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LEN>()?;
        let opened = self.cipher.decrypt(&Nonce::from(*nonce), Payload { msg: sealed, aad: &self.aad });
        if opened.is_err() {
            tracing::warn!("the last-use cache does not open: the audit log is read instead");
        }
        opened.ok()
    }

    fn save(&self, uses: &LastUses, settled: u64) {
        let Some(bytes) = uses.save(settled) else { return };
        if let Err(error) = self.write(&bytes) {
            // It is a cache: the next start reads more of the log.
            tracing::warn!(%error, "last uses are not saved");
            uses.not_saved();
        }
    }

    fn write(&self, bytes: &[u8]) -> std::io::Result<()> {
        let mut nonce = [0u8; NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(std::io::Error::other)?;
        let sealed = self
            .cipher
            .encrypt(&Nonce::from(nonce), Payload { msg: bytes, aad: &self.aad })
            .map_err(|_| std::io::Error::other("sealing failed"))?;
        let new = self.file.with_extension("new");
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&nonce)?;
        file.write_all(&sealed)?;
        file.sync_all()?;
        std::fs::rename(&new, &self.file)
    }
}
