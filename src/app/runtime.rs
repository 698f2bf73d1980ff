//! The process: no core dumps, not to be read by others of the same user, logs on standard error.

use std::sync::{Mutex, OnceLock, PoisonError};

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::config::{Log, LogFormat, LogLevel};

type Handle = reload::Handle<EnvFilter, Registry>;

static LEVEL: OnceLock<(Handle, Mutex<&'static str>)> = OnceLock::new();

/// Plaintexts and data keys pass through this process: no core dump, no ptrace, no `/proc/<pid>/mem` for others.
pub fn harden() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, none) {
        eprintln!("warning: core dumps stay on: {error}");
    }
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        eprintln!("warning: the process stays readable for others of this user: {error}");
    }
}

/// Starts logging; once per process.
pub fn log_to_stderr(log: &Log) {
    let level = log.level.as_str();
    let (filter, handle) = reload::Layer::new(directives(level));
    let registry = tracing_subscriber::registry().with(filter);
    let layer = fmt::layer().with_writer(std::io::stderr);
    let started = match log.format {
        LogFormat::Text => registry.with(layer.with_ansi(false)).try_init(),
        LogFormat::Json => registry.with(layer.json()).try_init(),
    };
    if started.is_ok() {
        let _ = LEVEL.set((handle, Mutex::new(level)));
    }
}

/// The same, as a worker process is told it.
pub fn log_words_to_stderr(level: &str, format: &str) {
    const LEVELS: [LogLevel; 5] = [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace];
    let level = LEVELS.into_iter().find(|known| known.as_str() == level).unwrap_or(LogLevel::Info);
    let format = if format == LogFormat::Json.as_str() { LogFormat::Json } else { LogFormat::Text };
    log_to_stderr(&Log { format, level });
}

/// SIGUSR1: info → debug → trace → the configured level again.
pub fn next_level(configured: &'static str) {
    let Some((handle, current)) = LEVEL.get() else { return };
    let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
    let next = match *current {
        "error" | "warn" => "info",
        "info" => "debug",
        "debug" => "trace",
        _ => configured,
    };
    *current = next;
    if handle.reload(directives(next)).is_ok() {
        tracing::warn!("log level is now {next}");
    }
}

/// The PKCS#11 crate logs each vendor mechanism that it has no name for as an error: only our own lines are wanted.
fn directives(level: &str) -> EnvFilter {
    EnvFilter::new(format!("{level},cryptoki=off"))
}
