//! Beside our own log: what the tokens say of themselves. Logs that tokens keep are collected (`[[token_log]]`); tokens without one
//! are looked at every `audit.reconcile_seconds`. What no record of ours explains is a record and an alert.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::watch;

use super::{audit_directory, now_ms};
use crate::audit::token_log::{Collector, Settings};
use crate::config::{Config, TokenLog};
use crate::http::Services;
use crate::ops::Context;

/// How often a token's log is read.
const LOOK: Duration = Duration::from_secs(2);

/// Collects one token's log until the service stops. `boot_seq`: the first record of this run.
pub(super) async fn collect(
    services: Arc<Services>,
    config: Config,
    log: TokenLog,
    boot_seq: u64,
    mut stopped: watch::Receiver<bool>,
) {
    let settings = Settings {
        name: log.name.clone(),
        file: log.file.clone(),
        state: state_file(&config.server.state_dir, &log.name),
        audit_dir: audit_directory(&config),
        window: i64::try_from(log.window.as_micros()).unwrap_or(i64::MAX),
    };
    let mut collector = match Collector::open(settings, boot_seq, now_ms() * 1000) {
        Ok(collector) => collector,
        Err(error) => {
            tracing::error!(%error, stream = log.name, "the token's log is not collected: its state file cannot be read");
            services.metrics.alert("TokenLogNotCollected");
            return;
        }
    };
    loop {
        let durable = services.journal.durable();
        let step = tokio::task::spawn_blocking(move || {
            let found = collector.step(durable, now_ms() * 1000);
            (collector, found)
        });
        let Ok((back, found)) = step.await else { return };
        collector = back;
        match found {
            Ok(found) => {
                let mut recorded = true;
                for one in found {
                    if one.alert {
                        alert(&services, one.name, &one.details);
                    }
                    recorded &= record(&services, one.name, one.details).await;
                }
                if !recorded {
                    // What was not recorded is read again after the next start.
                    return;
                }
                if let Err(error) = collector.save() {
                    tracing::error!(%error, stream = log.name, "the place in the token's log could not be kept");
                }
            }
            Err(error) => tracing::warn!(%error, stream = log.name, "the token's log cannot be read"),
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = stopped.changed() => return,
        }
    }
}

/// Looks at the tokens' objects every `interval` until the service stops.
pub(super) async fn watch_objects(
    services: Arc<Services>,
    interval: Duration,
    deadline: Duration,
    mut stopped: watch::Receiver<bool>,
) {
    loop {
        let context = Context {
            progress: None,
            request_id: Arc::from(uuid::Uuid::new_v4().to_string()),
            principal: "service".into(),
            account: services.ops.locality().account.clone(),
            now: now_ms(),
            deadline: Instant::now() + deadline,
        };
        let look = services.ops.watch_tokens(&context).await;
        let alerts = look.alerts.len();
        for (name, details) in look.alerts {
            alert(&services, name, &details);
            if !record(&services, name, details).await {
                return;
            }
        }
        let details = json!({ "tokens": look.tokens, "alerts": alerts });
        record(&services, "TokenObjectsWatched", details).await;
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            _ = stopped.changed() => return,
        }
    }
}

fn alert(services: &Services, name: &'static str, details: &serde_json::Value) {
    services.metrics.alert(name);
    tracing::error!(alert = name, %details, "the token did what no record of ours explains");
}

/// Whether it is in the log.
async fn record(services: &Services, name: &str, details: serde_json::Value) -> bool {
    services.journal.append(services.journal.event(name, now_ms(), details)).await.is_ok()
}

fn state_file(state_dir: &Path, name: &str) -> std::path::PathBuf {
    state_dir.join("token-logs").join(format!("{name}.json"))
}
