//! `audit repair`: cuts what an unfinished write left, keeps it, and writes a segment that says so, where the service itself
//! cannot be started. Whatever else is wrong with a log is nothing that a program may put right.

use std::path::Path;
use std::time::Duration;

use super::verify::{self, Options, Report, Verdict};
use super::{AuditError, Journal, Settings, files};

#[derive(Debug)]
pub enum Repaired {
    /// The end of the log is whole.
    Nothing,
    Cut {
        bytes: u64,
        /// In the journal's directory.
        kept_in: String,
        /// Where the log says so.
        segment: String,
    },
    /// What is wrong is not a torn end alone.
    Refused(Box<Report>),
}

/// `dir` is the trail's directory. Refuses beside a running service. Blocking.
pub fn repair(dir: &Path) -> Result<Repaired, AuditError> {
    let journal = dir.join("journal");
    if !journal.is_dir() {
        return Err(AuditError::Failed(format!("`{}` is no trail's directory", dir.display())));
    }
    let lock = files::lock(dir)?;
    let report = verify::directory(dir, &Options::default(), &mut |_| {});
    let wrong = |verdict: Verdict| !matches!(verdict, Verdict::Ok | Verdict::Incomplete | Verdict::Truncated);
    if wrong(report.verdict) || report.findings.iter().any(|finding| wrong(finding.verdict)) {
        return Ok(Repaired::Refused(Box::new(report)));
    }
    if !torn(&journal)? {
        return Ok(match report.verdict {
            // Cut below what was signed, say.
            Verdict::Truncated => Repaired::Refused(Box::new(report)),
            _ => Repaired::Nothing,
        });
    }
    let Some(settings) = report.trail.as_deref().and_then(|trail| settings(dir, trail)) else {
        return Ok(Repaired::Refused(Box::new(report)));
    };
    let opened = Journal::open_locked(settings, Box::new(|file| Box::new(file)), journal.clone(), lock, "repair")?;
    let (opened, recovery) = opened;
    opened.close();
    let names = files::segments(&journal, false).map_err(|error| AuditError::Failed(error.to_string()))?;
    Ok(Repaired::Cut {
        bytes: recovery.torn_bytes,
        kept_in: recovery.torn_file.unwrap_or_default(),
        segment: names.last().cloned().unwrap_or_default(),
    })
}

/// Bytes follow the last complete line.
fn torn(journal: &Path) -> Result<bool, AuditError> {
    let failed = |error: std::io::Error| AuditError::Failed(format!("cannot read `{}`: {error}", journal.display()));
    let names = files::segments(journal, false).map_err(failed)?;
    match names.last() {
        Some(name) => Ok(!files::ends_in_newline(&journal.join(name)).map_err(failed)?),
        None => Ok(false),
    }
}

/// What a log says of itself is enough to go on with it.
fn settings(dir: &Path, trail_arn: &str) -> Option<Settings> {
    let mut parts = trail_arn.split(':').skip(3);
    Some(Settings {
        dir: dir.to_path_buf(),
        trail_arn: trail_arn.to_owned(),
        region: parts.next()?.to_owned(),
        account: parts.next()?.to_owned(),
        segment_bytes: 64 << 20,
        segment_age: Duration::from_secs(3600),
        refuse_below_free: 0.0,
        warn_below_free: 0.0,
        reserve_bytes: 0,
        accept_loss: None,
        deadline: Duration::from_secs(60),
    })
}
