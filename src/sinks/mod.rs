//! Copies of the log for other systems: syslog, a webhook, an OpenTelemetry collector. Each sink has a thread of its own that
//! reads the journal's files from a cursor, so that one that hangs delays nothing but itself. At least once: what is not
//! acknowledged is sent again, and `seq` lets receivers see repetitions and gaps. They come from the configuration file only, never from
//! an API. Source: audit.md §7.3, §7.7.

mod backoff;
mod cursor;
mod delivery;
mod facts;
mod otlp;
mod run;
mod syslog;
mod webhook;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use tokio::sync::watch;

use crate::client::https::Trust;
use cursor::Cursor;

/// One `[[audit_sink]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Unique; part of a file's name and of metrics.
    pub name: String,
    pub target: Target,
    /// Records that say what is about to be done go too.
    pub intents: bool,
    /// Where a sink without a cursor begins: with the oldest record, or with what comes from now on.
    pub from_oldest: bool,
}

impl Settings {
    /// Seq of the first record that was not acknowledged, by the cursor in `cursors`. `None`: it begins with what is new.
    pub fn place(&self, cursors: &Path, trail: &str) -> Option<u64> {
        match Cursor::read(cursors, &self.name, trail) {
            Ok(None) => self.from_oldest.then_some(0),
            Ok(next) => next,
            Err(error) => {
                tracing::error!(%error, sink = self.name, "it is not known how far the sink is");
                Some(0)
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Syslog(SyslogTarget),
    Webhook(WebhookTarget),
    Otlp(OtlpTarget),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyslogTarget {
    pub host: String,
    pub port: u16,
    /// `None`: plain TCP.
    pub trust: Option<Trust>,
    /// Of a whole message.
    pub max_message_bytes: usize,
    /// IANA private enterprise number in the structured data's id.
    pub enterprise_number: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookTarget {
    pub url: String,
    pub trust: Trust,
    /// One JSON array instead of one line for each record.
    pub array: bool,
    /// With the key of the HMAC.
    pub secret_file: PathBuf,
    pub batch: Batches,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtlpTarget {
    pub url: String,
    pub trust: Trust,
    /// With the value of the Authorization header.
    pub authorization_file: Option<PathBuf>,
    pub batch: Batches,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batches {
    pub records: usize,
    pub bytes: usize,
}

/// The log that is copied.
#[derive(Clone)]
pub struct Trail {
    /// The trail's directory.
    pub dir: PathBuf,
    pub arn: String,
    /// `Journal::watch_durable`.
    pub durable: watch::Receiver<u64>,
    /// Milliseconds since the epoch.
    pub now: fn() -> i64,
    /// Where the cursors are.
    pub cursors: PathBuf,
    /// How long a sink may be silent.
    pub heartbeat: Duration,
}

/// A sink that does not get on for a while, or does again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub sink: String,
    pub failing: bool,
    /// Seq of the first record that is not acknowledged.
    pub next_seq: u64,
}

/// As the metrics show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    pub name: String,
    /// Records of the trail up to which all are acknowledged.
    pub acknowledged: u64,
    pub failures: u64,
    pub failing: bool,
}

#[derive(Debug, Default)]
struct Status {
    acknowledged: AtomicU64,
    failures: AtomicU64,
    failing: AtomicBool,
}

/// What the service wants of its sinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Run,
    /// Deliver what is durable now, and end. The first failure ends too.
    Finish,
}

/// The running sinks.
pub struct Sinks {
    all: Vec<(String, Arc<Status>)>,
    phase: watch::Sender<Phase>,
    /// Nothing is ever sent: it ends when the last thread has dropped its end.
    ended: Mutex<mpsc::Receiver<std::convert::Infallible>>,
}

impl Sinks {
    /// Starts a thread for each sink. What is wrong with a sink is told in the log and tried again: the service serves without it.
    pub fn start(
        settings: Vec<Settings>,
        trail: Trail,
        notice: impl Fn(Notice) + Send + Sync + 'static,
    ) -> std::io::Result<Sinks> {
        let (phase, _) = watch::channel(Phase::Run);
        let (alive, ended) = mpsc::channel();
        let notice = Arc::new(notice);
        let mut all = Vec::new();
        for one in settings {
            let status = Arc::new(Status::default());
            all.push((one.name.clone(), status.clone()));
            let (trail, phase, alive, notice) = (trail.clone(), phase.subscribe(), alive.clone(), notice.clone());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            std::thread::Builder::new().name(format!("sink-{}", one.name)).spawn(move || {
                let _alive = alive;
                runtime.block_on(run::run(one, trail, status, phase, &*notice));
                // A name that is being looked up must not hold up the end.
                runtime.shutdown_background();
            })?;
        }
        Ok(Sinks { all, phase, ended: Mutex::new(ended) })
    }

    pub fn readings(&self) -> Vec<Reading> {
        let reading = |(name, status): &(String, Arc<Status>)| Reading {
            name: name.clone(),
            acknowledged: status.acknowledged.load(Ordering::Relaxed),
            failures: status.failures.load(Ordering::Relaxed),
            failing: status.failing.load(Ordering::Relaxed),
        };
        self.all.iter().map(reading).collect()
    }

    /// Lets the sinks send what is durable now, for at most this long. What is left is sent after the next start. Blocking.
    pub fn finish(&self, within: Duration) {
        self.phase.send_replace(Phase::Finish);
        // An error is the news that all have ended.
        let _ = self.ended.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(within);
    }
}

#[cfg(test)]
mod tests;
