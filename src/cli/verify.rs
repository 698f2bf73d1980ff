//! `audit verify`, `audit prove` and `audit consistency`: from the files alone.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use indicatif::ProgressBar;

use super::{ConfigPath, Failed, USAGE, progress, verify_url};
use crate::audit::verify::{self, Options, Progress, Report, prove};

pub const EXIT_CODES: &str = "Exit codes: 0 OK, 1 TAMPERED, 2 TRUNCATED, 3 FORKED, 4 STALE, 5 BAD SIGNATURE or unknown key, \
                              6 incomplete input, 64 usage. What is not proven is always said.";

/// Below this a log is read before anybody could look at a bar.
const SHOWN_FROM: u64 = 64 << 20;

#[derive(Args)]
pub struct VerifyOptions {
    /// The trail's directory, an export's, a file that `audit prove` made, or the service's URL: its digests and log files are read with
    /// AWS's credentials and Region. By default the configuration's trail.
    dir: Option<PathBuf>,
    /// With a URL: whom the service's certificate is from (PEM); by default AWS_CA_BUNDLE, or the system's.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// ARN that the trail must have.
    #[arg(long, value_name = "ARN")]
    trail: Option<String>,
    /// Certificates (PEM) of who vouches for the trail's keys.
    #[arg(long, value_name = "FILE")]
    trust: Option<PathBuf>,
    /// Remember the newest head in this file, and refuse a log that does not continue it.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// A head that was kept elsewhere: a signed note, or JSON with size and root.
    #[arg(long, value_name = "FILE")]
    anchor: Vec<PathBuf>,
    /// The service is running: judge the newest records by this clock.
    #[arg(long)]
    now: bool,
    /// How long a record may wait for a signature.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32))]
    longest_unsigned: Option<u32>,
    /// Accept a loss of signed records that the log admits with this ticket.
    #[arg(long, value_name = "TICKET")]
    accepted_loss: Option<String>,
    /// All trails below the directory.
    #[arg(long)]
    all: bool,
    #[arg(long)]
    json: bool,
}

impl VerifyOptions {
    pub fn run(self, config: &ConfigPath) -> Result<u8, Failed> {
        if let Some(url) = self.dir.as_deref().filter(|dir| verify_url::is_url(dir)) {
            return self.url(&url.to_string_lossy());
        }
        let options = self.options()?;
        let dir = config.audit_dir(self.dir.clone())?;
        if dir.is_file() {
            let told = |error| Failed::new(6, format!("`{}`: {error}", dir.display()));
            let text = std::fs::read_to_string(&dir).map_err(told)?;
            let report = prove::check(&dir, &text, options.trust.as_deref());
            print(&report, self.json)?;
            return Ok(report.exit_code);
        }
        let dirs = if self.all { trails(&dir)? } else { vec![dir] };
        let mut worst: Option<Report> = None;
        for dir in dirs {
            let report = directory(&dir, &options);
            print(&report, self.json)?;
            if worst.as_ref().is_none_or(|worst| report.verdict > worst.verdict) {
                worst = Some(report);
            }
        }
        Ok(worst.map_or(0, |report| report.exit_code))
    }

    /// The bucket alone: what needs records or certificates cannot be judged.
    fn url(&self, url: &str) -> Result<u8, Failed> {
        if self.all || self.trust.is_some() || self.state.is_some() || !self.anchor.is_empty() {
            let text = "--all, --trust, --state and --anchor need the journal: verify the trail's directory";
            return Err(Failed::new(USAGE, text));
        }
        let copied = super::in_any_runtime(verify_url::copy(url, self.ca.as_deref(), self.trail.as_deref()))?;
        let mut options = self.options()?;
        options.without_journal = true;
        options.now = copied.live.then(now);
        let mut report = directory(copied.path(), &options);
        report.directory = url.into();
        report.trail = Some(copied.trail_arn.clone());
        if !copied.live {
            report
                .not_proven
                .push("that the newest digest is recent: the service says that it serves a copy".to_owned());
        }
        print(&report, self.json)?;
        Ok(report.exit_code)
    }

    fn options(&self) -> Result<Options, Failed> {
        let trust = match &self.trust {
            Some(path) => {
                let told = |error| Failed::new(USAGE, format!("--trust `{}`: {error}", path.display()));
                Some(std::fs::read(path).map_err(told)?)
            }
            None => None,
        };
        Ok(Options {
            trail_arn: self.trail.clone(),
            trust,
            state: self.state.clone(),
            anchors: self.anchor.clone(),
            now: self.now.then(now),
            accepted_loss: self.accepted_loss.clone(),
            longest_unsigned: self.longest_unsigned.map(|seconds| i64::from(seconds) * 1000),
            ..Options::default()
        })
    }
}

#[derive(Args)]
pub struct ProveOptions {
    /// The trail's directory; by default the configuration's.
    dir: Option<PathBuf>,
    /// `eventID` of the record.
    #[arg(long, value_name = "ID")]
    event_id: String,
    /// Where to write the proof; by default to standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl ProveOptions {
    pub fn run(self, config: &ConfigPath) -> Result<u8, Failed> {
        let proof = prove::prove(&config.audit_dir(self.dir)?, &self.event_id).map_err(|what| Failed::new(6, what))?;
        let text = serde_json::to_string_pretty(&proof).map_err(|e| Failed::new(74, e.to_string()))? + "\n";
        match self.out {
            None => std::io::stdout().lock().write_all(text.as_bytes()).map_err(|e| Failed::new(74, e.to_string()))?,
            Some(path) => std::fs::write(&path, text)
                .map_err(|error| Failed::new(74, format!("writing `{}`: {error}", path.display())))?,
        }
        Ok(0)
    }
}

#[derive(Args)]
pub struct ConsistencyOptions {
    /// Two heads: checkpoint files, or JSON with size and root.
    earlier: PathBuf,
    later: PathBuf,
    /// The trail's directory; by default the configuration's.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[arg(long)]
    json: bool,
}

impl ConsistencyOptions {
    pub fn run(self, config: &ConfigPath) -> Result<u8, Failed> {
        let report = prove::consistency(&config.audit_dir(self.dir)?, &self.earlier, &self.later);
        print(&report, self.json)?;
        Ok(report.exit_code)
    }
}

/// Milliseconds since the epoch.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Folders with a journal.
fn trails(dir: &Path) -> Result<Vec<PathBuf>, Failed> {
    let told = |error| Failed::new(6, format!("`{}`: {error}", dir.display()));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(told)? {
        let path = entry.map_err(told)?.path();
        if path.join("journal").is_dir() {
            found.push(path);
        }
    }
    found.sort();
    if found.is_empty() { Err(Failed::new(6, format!("no trail is below `{}`", dir.display()))) } else { Ok(found) }
}

fn directory(dir: &Path, options: &Options) -> Report {
    let mut bar: Option<ProgressBar> = None;
    let mut show = |now: Progress| {
        if now.total > SHOWN_FROM {
            bar.get_or_insert_with(|| progress::bar(now.total)).set_position(now.bytes);
        }
    };
    let report = verify::directory(dir, options, &mut show);
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    report
}

fn print(report: &Report, json: bool) -> Result<(), Failed> {
    let text = if json {
        serde_json::to_string(report).map_err(|e| Failed::new(74, e.to_string()))? + "\n"
    } else {
        report.to_string()
    };
    // The verdict counts, whether or not the reader wants the whole text.
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failed::new(74, error.to_string())),
        _ => Ok(()),
    }
}
