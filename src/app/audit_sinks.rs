//! The configured sinks of the log, as `sinks` runs them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{AppError, audit_directory, audit_settings, now_ms};
use crate::audit::seal::Behind;
use crate::client::https::Trust;
use crate::config::{AuditSink, Config, SinkTarget, SinkTrust};
use crate::http::Services;
use crate::http::metrics::SinkReading;
use crate::sinks::{Batches, Notice, OtlpTarget, Settings, Sinks, SyslogTarget, Target, Trail, WebhookTarget};

/// Silence of a sink is never longer than this.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// In which the last records have to be delivered when the service ends; else they are after the next start.
const LAST: Duration = Duration::from_secs(2);

pub(super) fn start(config: &Config, services: &Arc<Services>) -> Result<Arc<Sinks>, AppError> {
    let trail = Trail {
        dir: audit_directory(config),
        arn: audit_settings(config).trail_arn,
        durable: services.journal.watch_durable(),
        now: now_ms,
        cursors: cursors(config),
        heartbeat: HEARTBEAT,
    };
    // The journal's own task waits for the disk; a sink does not.
    let (runtime, weak) = (tokio::runtime::Handle::current(), Arc::downgrade(services));
    let notice = move |notice: Notice| {
        let Some(services) = weak.upgrade() else { return };
        let details = serde_json::json!({
            "sink": notice.sink,
            "state": if notice.failing { "failing" } else { "delivering" },
            "nextSeq": notice.next_seq,
        });
        let event = services.journal.event("AuditSink", now_ms(), details);
        runtime.spawn(async move {
            if let Err(error) = services.journal.append(event).await {
                tracing::error!(%error, "the state of a sink was not recorded");
            }
        });
    };
    let settings = config.audit_sinks.iter().map(settings).collect();
    Sinks::start(settings, trail, notice)
        .map(Arc::new)
        .map_err(|e| AppError::Io(format!("sinks of the audit log: {e}")))
}

fn cursors(config: &Config) -> PathBuf {
    config.server.state_dir.join("sinks")
}

/// The configured sink that is furthest behind, by what it has on disk: also where no sink runs.
pub(super) fn behind(config: &Config) -> Box<dyn Fn() -> Option<Behind> + Send> {
    let (dir, trail) = (cursors(config), audit_settings(config).trail_arn);
    let sinks: Vec<Settings> = config.audit_sinks.iter().map(settings).collect();
    Box::new(move || {
        let place = |sink: &Settings| Some(Behind { name: sink.name.clone(), next: sink.place(&dir, &trail)? });
        sinks.iter().filter_map(place).min_by_key(|behind| behind.next)
    })
}

pub(super) async fn finish(sinks: Arc<Sinks>) {
    let _ = tokio::task::spawn_blocking(move || sinks.finish(LAST)).await;
}

pub(super) fn readings(sinks: &Sinks, durable: u64) -> Vec<SinkReading> {
    let reading = |reading: crate::sinks::Reading| SinkReading {
        name: reading.name,
        acknowledged: reading.acknowledged,
        lag: durable.saturating_sub(reading.acknowledged),
        failures: reading.failures,
        failing: reading.failing,
    };
    sinks.readings().into_iter().map(reading).collect()
}

fn settings(sink: &AuditSink) -> Settings {
    let target = match &sink.target {
        SinkTarget::Syslog { host, port, trust: tls, max_message_bytes, enterprise_number } => {
            Target::Syslog(SyslogTarget {
                host: host.clone(),
                port: *port,
                trust: tls.as_ref().map(trust),
                max_message_bytes: *max_message_bytes,
                enterprise_number: *enterprise_number,
            })
        }
        SinkTarget::Webhook { url, trust: tls, array, secret_file, batch_records, batch_bytes } => {
            Target::Webhook(WebhookTarget {
                url: url.clone(),
                trust: trust(tls),
                array: *array,
                secret_file: secret_file.clone(),
                batch: Batches { records: *batch_records, bytes: *batch_bytes },
            })
        }
        SinkTarget::Otlp { url, trust: tls, authorization_file, batch_records, batch_bytes } => {
            Target::Otlp(OtlpTarget {
                url: url.clone(),
                trust: trust(tls),
                authorization_file: authorization_file.clone(),
                batch: Batches { records: *batch_records, bytes: *batch_bytes },
            })
        }
    };
    Settings { name: sink.name.clone(), target, intents: sink.intents, from_oldest: sink.from_oldest }
}

fn trust(trust: &SinkTrust) -> Trust {
    Trust { ca: trust.ca.clone(), identity: trust.identity.clone() }
}
