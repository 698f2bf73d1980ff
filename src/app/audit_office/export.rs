//! `hsm-bridge audit export` and HsmBridge.ExportAudit: both end here.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tokio::sync::Mutex;

use crate::audit::export::{self, Error, Filter, Format, Job, Made, PART_BYTES, Request};
use crate::audit::{Checkpoints, Journal, KeyUse, SignAudit, SignError};
use crate::config::Config;
use crate::http::Services;
use crate::ops::{ClockWatch, Context, ExportRequest, OpError};

/// Makes exports, one at a time: each reads and hashes a large part of the log.
pub struct Exports {
    dir: PathBuf,
    trail_arn: String,
    account: String,
    region: String,
    key_prefix: Option<String>,
    keep_free: f64,
    journal: Journal,
    clock: Arc<ClockWatch>,
    signer: Arc<dyn SignAudit>,
    checkpoints: Arc<Checkpoints>,
    one_at_a_time: Mutex<()>,
}

impl Exports {
    pub fn new(config: &Config, services: &Services, checkpoints: Arc<Checkpoints>) -> Exports {
        let settings = crate::app::audit_settings(config);
        Exports {
            dir: settings.dir,
            trail_arn: settings.trail_arn,
            account: settings.account,
            region: settings.region,
            key_prefix: config.audit.key_prefix.clone(),
            // A percent above the line below which requests are refused.
            keep_free: f64::from(config.audit.refuse_below_free_percent.saturating_add(1)) / 100.0,
            journal: services.journal.clone(),
            clock: services.ops.clock().clone(),
            signer: services.signer.clone(),
            checkpoints,
            one_at_a_time: Mutex::default(),
        }
    }

    /// What was made, for the caller and for the record.
    pub async fn make(&self, asked: &ExportRequest, ctx: &Context) -> Result<serde_json::Value, OpError> {
        let request = request(asked)?;
        let out = asked.out.as_deref().map(absolute).transpose()?;
        let signer = self.signer.clone();
        let _one_at_a_time = self.one_at_a_time.lock().await;
        // The export ends where a tree head signed now does: before the record of that head. Where none can be signed, it has what
        // there is and says what is not covered.
        let signed = self.checkpoints.write().await;
        let head = signed.ok().and_then(|new| new.or_else(|| self.checkpoints.last()));
        let durable = head.map_or_else(|| self.journal.durable(), |head| head.size);
        // The thread that makes it waits for signatures; one that drives the runtime must not.
        let runtime = tokio::runtime::Handle::current();
        let progress = ctx.progress.clone();
        let mut keys = signer.keys();
        keys.retain(|key| matches!(key.key_use, KeyUse::Digest | KeyUse::Checkpoint));
        let (dir, trail_arn, account, region) =
            (self.dir.clone(), self.trail_arn.clone(), self.account.clone(), self.region.clone());
        let (key_prefix, keep_free) = (self.key_prefix.clone(), self.keep_free);
        let (now, principal, request_id) = (ctx.now, ctx.principal.to_string(), ctx.request_id.to_string());
        let clock = self.clock.stopped_because().unwrap_or_else(|| "steady since the start of the service".to_owned());
        let made = tokio::task::spawn_blocking(move || {
            let job = Job {
                dir,
                trail_arn,
                account,
                region,
                key_prefix,
                id: uuid::Uuid::new_v4().to_string(),
                now: now.saturating_mul(1000),
                generated_by: principal,
                request_id,
                durable,
                clock,
                out,
                keep_free,
                part_bytes: PART_BYTES,
                keys,
                sign: &|message| runtime.block_on(signer.sign(KeyUse::Digest, message)),
                progress: &|done, total| {
                    if let Some(progress) = &progress {
                        progress.done.store(done, Relaxed);
                        progress.total.store(total, Relaxed);
                    }
                },
            };
            export::make(&job, &request)
        });
        let made: Made =
            made.await.map_err(|error| OpError::Internal(format!("the export ended: {error}")))?.map_err(told)?;
        serde_json::to_value(&made).map_err(|error| OpError::Internal(error.to_string()))
    }
}

fn request(asked: &ExportRequest) -> Result<Request, OpError> {
    let mut formats = Vec::new();
    for name in &asked.formats {
        let format = Format::parse(name)
            .ok_or_else(|| OpError::Validation(format!("`{name}` is no format: {}", Format::NAMES.join(", "))))?;
        if !formats.contains(&format) {
            formats.push(format);
        }
    }
    if formats.is_empty() {
        formats.push(Format::Csv);
    }
    if let (Some(from), Some(to)) = (asked.from, asked.to)
        && from >= to
    {
        return Err(OpError::Validation("the range ends before it begins".to_owned()));
    }
    let ocsf = match &asked.ocsf_version {
        None => export::ocsf::Version::default(),
        Some(version) => export::ocsf::Version::parse(version)
            .ok_or_else(|| OpError::Validation(format!("`{version}` is no version of OCSF: 1.8, 1.9")))?,
    };
    Ok(Request {
        from: asked.from.map(|ms| ms.saturating_mul(1000)),
        to: asked.to.map(|ms| ms.saturating_mul(1000)),
        formats,
        ocsf,
        filter: Filter {
            key: asked.key.clone(),
            principal: asked.principal.clone(),
            event: asked.event.clone(),
            errors_only: asked.errors_only,
        },
    })
}

/// The service runs somewhere else than whoever asks.
fn absolute(path: &Path) -> Result<PathBuf, OpError> {
    match path.is_absolute() {
        true => Ok(path.to_owned()),
        false => Err(OpError::Validation(format!("`{}` is not an absolute path", path.display()))),
    }
}

fn told(error: Error) -> OpError {
    match error {
        Error::Exists(_) | Error::NoRoom => OpError::Validation(error.to_string()),
        Error::Sign(SignError(_)) => OpError::DependencyTimeout(error.to_string()),
        Error::Io { .. } | Error::Damaged(_) => OpError::Internal(error.to_string()),
    }
}
