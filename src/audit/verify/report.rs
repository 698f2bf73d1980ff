//! What the verifier found, for people and as JSON.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

/// Ordered by weight: the heaviest finding is the verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    Ok,
    /// Files are missing or cannot be read, so part of the chain was not seen.
    Incomplete,
    /// The newest records wait for a signature or a digest for too long.
    Stale,
    /// A signature is wrong, or by a key that the log did not introduce for that time.
    #[serde(rename = "BAD SIGNATURE")]
    BadSignature,
    /// The end of the log is cut: inside a record, or below what was signed or remembered.
    Truncated,
    /// A record or a file was changed, removed, repeated or moved.
    Tampered,
    /// It is another log than the one that was signed or remembered.
    Forked,
}

/// Wrong arguments, for the command line.
pub const EXIT_USAGE: u8 = 64;

impl Verdict {
    pub fn exit_code(self) -> u8 {
        match self {
            Verdict::Ok => 0,
            Verdict::Tampered => 1,
            Verdict::Truncated => 2,
            Verdict::Forked => 3,
            Verdict::Stale => 4,
            Verdict::BadSignature => 5,
            Verdict::Incomplete => 6,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Ok => "OK",
            Verdict::Incomplete => "INCOMPLETE",
            Verdict::Stale => "STALE",
            Verdict::BadSignature => "BAD SIGNATURE",
            Verdict::Truncated => "TRUNCATED",
            Verdict::Forked => "FORKED",
            Verdict::Tampered => "TAMPERED",
        })
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    pub verdict: Verdict,
    pub file: String,
    /// From 1; 0 where the finding is about the whole file.
    pub line: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    pub what: String,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenIntent {
    pub seq: u64,
    #[serde(rename = "requestID")]
    pub request_id: String,
    pub event_name: String,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub verdict: Verdict,
    pub exit_code: u8,
    pub directory: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trail: Option<String>,
    pub segments: u64,
    pub records: u64,
    pub bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_time: Option<String>,
    /// Hash of the newest record: written down elsewhere, it proves later that nothing before it was changed or cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<String>,
    pub intents: u64,
    pub intents_closed: u64,
    pub open_intents: Vec<OpenIntent>,
    pub findings: Vec<Finding>,
    /// All of them, also those beyond the first of the list.
    pub finding_count: u64,
    pub notes: Vec<String>,
    pub not_proven: Vec<String>,
    /// What cannot be changed any more without this verifier seeing it, and what by.
    pub fixed: Vec<String>,
    /// Signed heads that fit.
    pub checkpoints: u64,
    pub digests: u64,
    pub log_files: u64,
    /// Log files that the next digest will list.
    pub unlisted: u64,
    pub keys: Vec<String>,
    /// The newest head that is signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signed: Option<Signed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsigned_tail: Option<Tail>,
    /// The first segment that is here, and the one before it that is not.
    #[serde(skip)]
    pub(super) begins_after: Option<(String, String)>,
    /// The caller asked for a part only.
    #[serde(skip)]
    pub(super) partial: bool,
}

#[derive(Debug, Clone, Serialize)]
pub struct Signed {
    pub size: u64,
    /// Hex.
    pub root: String,
    pub by: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
}

/// Records behind the newest signed head.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tail {
    pub records: u64,
    /// Time of the first that waits for a checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    pub age_ms: i64,
}

/// Findings, notes and open intents beyond this many are only counted.
pub(super) const LISTED: usize = 100;

impl Report {
    pub(super) fn new(directory: PathBuf) -> Report {
        Report {
            verdict: Verdict::Ok,
            exit_code: 0,
            directory,
            chain: None,
            trail: None,
            segments: 0,
            records: 0,
            bytes: 0,
            first_seq: None,
            last_seq: None,
            first_time: None,
            last_time: None,
            head: None,
            intents: 0,
            intents_closed: 0,
            open_intents: Vec::new(),
            findings: Vec::new(),
            finding_count: 0,
            notes: Vec::new(),
            not_proven: Vec::new(),
            fixed: Vec::new(),
            checkpoints: 0,
            digests: 0,
            log_files: 0,
            unlisted: 0,
            keys: Vec::new(),
            signed: None,
            unsigned_tail: None,
            begins_after: None,
            partial: false,
        }
    }

    pub(super) fn is_partial(&self) -> bool {
        self.partial || self.begins_after.is_some()
    }

    pub(super) fn find(&mut self, verdict: Verdict, file: &str, line: u64, seq: Option<u64>, what: impl Into<String>) {
        self.verdict = self.verdict.max(verdict);
        self.exit_code = self.verdict.exit_code();
        self.finding_count += 1;
        if self.findings.len() < LISTED {
            self.findings.push(Finding { verdict, file: file.into(), line, seq, what: what.into() });
        }
    }

    pub(super) fn note(&mut self, text: String) {
        if self.notes.len() < LISTED {
            self.notes.push(text);
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}  {}", self.verdict, self.directory.display())?;
        if let Some(trail) = &self.trail {
            writeln!(f, "trail     {trail}")?;
        }
        write!(f, "records   {} in {} segments, {} bytes", self.records, self.segments, self.bytes)?;
        if let (Some(first), Some(last)) = (self.first_seq, self.last_seq) {
            write!(f, ", seq {first} to {last}")?;
        }
        writeln!(f)?;
        if let (Some(first), Some(last)) = (&self.first_time, &self.last_time) {
            writeln!(f, "time      {first} to {last}")?;
        }
        if let Some(head) = &self.head {
            writeln!(f, "head      {head}")?;
        }
        writeln!(
            f,
            "intents   {}, of which {} have an outcome and {} have none",
            self.intents,
            self.intents_closed,
            self.intents - self.intents_closed
        )?;
        for intent in &self.open_intents {
            writeln!(f, "  open: seq {} {} request {}", intent.seq, printable(&intent.event_name), intent.request_id)?;
        }
        if !self.keys.is_empty() {
            let (heads, digests, files) = (self.checkpoints, self.digests, self.log_files);
            writeln!(f, "signed    {heads} heads that fit, {digests} digests, {files} log files")?;
        }
        for key in &self.keys {
            writeln!(f, "key       {}", printable(key))?;
        }
        for finding in &self.findings {
            write!(f, "{}: {}", finding.verdict, printable(&finding.file))?;
            if finding.line > 0 {
                write!(f, " line {}", finding.line)?;
            }
            if let Some(seq) = finding.seq {
                write!(f, " seq {seq}")?;
            }
            writeln!(f, ": {}", printable(&finding.what))?;
        }
        let unlisted = self.finding_count - self.findings.len() as u64;
        if unlisted > 0 {
            writeln!(f, "… and {unlisted} findings more")?;
        }
        for note in &self.notes {
            writeln!(f, "note: {}", printable(note))?;
        }
        if !self.fixed.is_empty() {
            writeln!(f, "fixed:")?;
        }
        for text in &self.fixed {
            writeln!(f, "  - {}", printable(text))?;
        }
        writeln!(f, "not proven:")?;
        for text in &self.not_proven {
            writeln!(f, "  - {}", printable(text))?;
        }
        Ok(())
    }
}

/// Texts may come from a tampered file: nothing of them may steer a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect()
}
