//! Seals the log while the service runs and at its stop, signs digests, and deletes what is beyond its retention. One at a
//! time, on threads that may block.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::{AppError, audit_directory, audit_sinks, now_ms};
use crate::audit::seal::{Live, SealError, Sealer, Settings, Status};
use crate::audit::{self, CoverAudit, Journal, KeyUse, SignAudit};
use crate::config::Config;
use crate::ops::AuditKeeper;
use crate::ops::OpError;

/// How often old files are looked for.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);
/// A digest that could not be signed is tried again after so long at most.
const SIGN_AGAIN: Duration = Duration::from_secs(60);

/// What belongs to the sealed files of the trail. Cheap to clone.
#[derive(Clone)]
pub(super) struct Sealing {
    sealer: Arc<Mutex<Sealer<Live>>>,
    signer: Arc<dyn SignAudit>,
    status: Arc<Status>,
}

/// Numbers for the metrics.
pub(super) struct Numbers {
    pub last_seal: u64,
    pub last_digest: u64,
    pub failures: u64,
    pub held: u64,
}

impl Sealing {
    /// Within the runtime.
    pub fn new(config: &Config, journal: Journal, signer: Arc<dyn SignAudit>) -> Sealing {
        let (here, audit) = (&config.server.locality, &config.audit);
        let settings = Settings {
            dir: audit_directory(config),
            account: here.account.to_string(),
            region: here.region.to_string(),
            trail: audit.trail.clone(),
            bucket: audit.bucket.clone(),
            key_prefix: audit.key_prefix.clone(),
            retention: audit.retention,
            retention_bytes: audit.retention_bytes,
            retention_floor: audit.retention_floor,
            journal_retention: audit.journal_retention,
            legal_hold: audit.legal_hold,
        };
        let around = Live {
            journal,
            runtime: Handle::current(),
            signer: signer.clone(),
            clock: now_ms,
            behind: audit_sinks::behind(config),
        };
        let status = Arc::new(Status::default());
        Sealing { sealer: Arc::new(Mutex::new(Sealer::new(settings, around, status.clone()))), signer, status }
    }

    pub fn numbers(&self) -> Numbers {
        let unix = |seconds: i64| u64::try_from(seconds).unwrap_or(0);
        Numbers {
            last_seal: unix(self.status.last_seal.load(Ordering::Relaxed)),
            last_digest: unix(self.status.last_digest.load(Ordering::Relaxed)),
            failures: self.status.failures.load(Ordering::Relaxed),
            held: self.status.held.load(Ordering::Relaxed),
        }
    }

    async fn on_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Sealer<Live>) -> Result<T, SealError> + Send + 'static,
    ) -> Result<T, AppError> {
        let sealer = self.sealer.clone();
        // Whatever panicked left no half-known state: the sealer finds it again after an error.
        let work = move || work(&mut sealer.lock().unwrap_or_else(PoisonError::into_inner));
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => done.map_err(|error| AppError::Io(error.to_string())),
            Err(error) => Err(AppError::Io(error.to_string())),
        }
    }

    /// A log file of what is new, and where there is a key a digest.
    async fn seal(&self, digest: bool) -> Result<(), AppError> {
        if digest && self.signer.keys().iter().any(|key| key.key_use == KeyUse::Digest) {
            return self.on_thread(Sealer::digest).await;
        }
        self.on_thread(|sealer| sealer.seal().map(drop)).await
    }

    /// After the last record but one: what this writes is sealed by the next run.
    pub async fn at_end(&self) {
        if let Err(error) = self.seal(true).await {
            tracing::error!(%error, "the end of the audit log is not sealed: the next start does it");
        }
    }
}

/// Seals, signs and prunes until the service stops; the last digest is `Sealing::at_end`.
pub(super) async fn keep(sealing: Sealing, config: Config, mut stopped: watch::Receiver<bool>) {
    let (seal_every, digest_every) = (config.audit.seal_interval, config.audit.digest_interval);
    let mut next_seal = Instant::now() + seal_every;
    let mut next_digest = Instant::now() + first_digest(&sealing, digest_every).await;
    let mut next_prune = Instant::now() + PRUNE_EVERY.min(digest_every);
    loop {
        let next = next_seal.min(next_digest).min(next_prune);
        tokio::select! {
            () = tokio::time::sleep_until(next.into()) => {}
            _ = stopped.changed() => return,
        }
        let now = Instant::now();
        let digest = now >= next_digest;
        if digest || now >= next_seal {
            next_seal = now + seal_every;
            let done = sealing.seal(digest).await;
            if digest {
                next_digest = now + if done.is_ok() { digest_every } else { digest_every.min(SIGN_AGAIN) };
            }
            if let Err(error) = done {
                tracing::error!(%error, "the audit log was not sealed, another try follows");
            }
        }
        if now >= next_prune {
            next_prune = now + PRUNE_EVERY;
            if let Err(error) = sealing.on_thread(Sealer::prune).await {
                tracing::error!(%error, "old audit files were not deleted, another try follows");
            }
        }
    }
}

/// How long until the digest is due that the last run's newest one leads to.
async fn first_digest(sealing: &Sealing, every: Duration) -> Duration {
    match sealing.on_thread(Sealer::last_digest).await {
        Ok(Some(end)) => {
            let since = u64::try_from(now_ms().div_euclid(1000) - end).unwrap_or(0);
            every.saturating_sub(Duration::from_secs(since))
        }
        Ok(None) => every,
        Err(error) => {
            tracing::error!(%error, "it is not known how far the audit log is sealed");
            every
        }
    }
}

impl CoverAudit for Sealing {
    fn cover(&self, key_use: KeyUse, _seq: u64) -> audit::BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            match key_use {
                // Everything that is durable now is in it.
                KeyUse::Digest => self.on_thread(Sealer::digest).await.map_err(|error| error.to_string()),
                KeyUse::Checkpoint => Ok(()),
            }
        })
    }
}

impl AuditKeeper for Sealing {
    fn prune(&self, dry_run: bool) -> crate::store::BoxFuture<'_, Result<Value, OpError>> {
        Box::pin(async move {
            let plan = match dry_run {
                true => self.on_thread(Sealer::plan).await,
                false => self.on_thread(Sealer::prune).await,
            };
            let plan = plan.map_err(|error| OpError::Validation(error.to_string()))?;
            let told = json!({
                "dryRun": dry_run,
                "gone": plan.gone,
                "journalBegins": plan.journal_begins,
                "kept": plan.kept,
            });
            Ok(told)
        })
    }
}
