//! `audit report`, `audit attest-review`, `audit ceremony`.

use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use clap::Args;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Failed, USAGE, absolute, answer, show};
use crate::config::Config;
use crate::ops::{AttestReview, Ceremony, OperatorRequest, OperatorResponse, ReportRequest};

pub const REPORTS: &str = "\
Reports:
  R1  key-inventory              R8  separation-of-duties
  R2  custodians-and-access      R9  hsm-inventory
  R3  rotation-and-cryptoperiod  R10 audit-integrity
  R4  key-usage                  R11 policy-as-of
  R5  admin-changes              R12 attestations
  R6  ceremonies                 R13 unused-stale
  R7  failed-access              R14 audit-log-access

Times are dates (2026-03-01: its first moment in UTC) or RFC 3339. The server writes the files, as its own user.
Exit codes: 0 made of a log that verifies; those of `audit verify` where it does not (the report is made all the same).

Example:
  hsm-bridge audit report admin-changes --from 2026-01-01 --to 2026-04-01 --format html --format csv --out /srv/reports/q1";

#[derive(Args)]
pub struct ReportOptions {
    /// R1 to R14, or its name.
    #[arg(value_name = "REPORT")]
    pub name: String,
    /// First moment; a month (some reports: a year) before the end by default.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub from: Option<i64>,
    /// Not any more; now by default.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub to: Option<i64>,
    /// For reports on a state: the moment; the end by default.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub as_of: Option<i64>,
    /// Only this key: id or ARN.
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// Only this principal: ARN, user name or access key.
    #[arg(long, value_name = "PRINCIPAL")]
    pub principal: Option<String>,
    /// html, csv, json or jsonl; may be given again. html and csv by default.
    #[arg(long = "format", value_name = "FORMAT")]
    pub formats: Vec<String>,
    /// The folder for the files; by default one in the bucket of sealed files.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct AttestOptions {
    /// The file that was reviewed: its SHA-256 stands in the log.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// What was reviewed or acknowledged; the file's name by default.
    #[arg(long)]
    pub subject: Option<String>,
    /// approved, rejected or acknowledged.
    #[arg(long)]
    pub decision: String,
    /// Who reviewed or acknowledges.
    #[arg(long)]
    pub reviewer: String,
    #[arg(long)]
    pub comment: Option<String>,
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct CeremonyOptions {
    /// What the ceremony is called in your own files.
    pub id: String,
    /// The script that was followed: its SHA-256 stands in the log.
    #[arg(long, value_name = "FILE")]
    pub script: PathBuf,
    /// A step that was done; may be given again.
    #[arg(long = "step", value_name = "TEXT")]
    pub steps: Vec<String>,
    /// NAME: DUTY (security officer, custodian, witness…); may be given again.
    #[arg(long = "participant", value_name = "TEXT", required = true)]
    pub participants: Vec<String>,
    /// How many had to be there: `2 of 3`.
    #[arg(long)]
    pub quorum: Option<String>,
    /// The signed minutes: their SHA-256 stands in the log.
    #[arg(long, value_name = "FILE")]
    pub minutes: Option<PathBuf>,
    #[arg(long)]
    pub json: bool,
}

pub fn report(config: &Config, options: ReportOptions) -> Result<u8, Failed> {
    let request = OperatorRequest::AuditReport(ReportRequest {
        name: options.name,
        from: options.from,
        to: options.to,
        as_of: options.as_of,
        key: options.key,
        principal: options.principal,
        formats: options.formats,
        out: options.out.map(absolute).transpose()?,
    });
    let response = answer(config, request)?;
    show::response(&response, options.json).map_err(|e| Failed::new(74, e.to_string()))?;
    let code = match &response {
        OperatorResponse::AuditReport { report } => report.get("exitCode").and_then(serde_json::Value::as_u64),
        _ => None,
    };
    Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(0))
}

pub fn attest_review(config: &Config, options: AttestOptions) -> Result<u8, Failed> {
    let bytes = options.report.as_deref().map(read).transpose()?;
    let name = options.report.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let subject = options.subject.or_else(|| name.clone());
    let subject =
        subject.ok_or_else(|| Failed::new(USAGE, "say what was reviewed: --report FILE or --subject TEXT"))?;
    let review = AttestReview {
        subject,
        reviewer: options.reviewer,
        decision: options.decision,
        comment: options.comment,
        file: name,
        report_id: bytes.as_deref().and_then(report_id),
        sha256: bytes.as_deref().map(sha256),
    };
    noted(config, OperatorRequest::AttestReview(review), options.json)
}

pub fn ceremony(config: &Config, options: CeremonyOptions) -> Result<u8, Failed> {
    let ceremony = Ceremony {
        id: options.id,
        script_sha256: sha256(&read(&options.script)?),
        steps: options.steps,
        participants: options.participants,
        quorum: options.quorum,
        minutes_sha256: options.minutes.as_deref().map(read).transpose()?.as_deref().map(sha256),
    };
    noted(config, OperatorRequest::Ceremony(ceremony), options.json)
}

fn noted(config: &Config, request: OperatorRequest, json: bool) -> Result<u8, Failed> {
    let response = answer(config, request)?;
    show::response(&response, json).map_err(|e| Failed::new(74, e.to_string()))?;
    Ok(0)
}

fn read(path: &Path) -> Result<Vec<u8>, Failed> {
    std::fs::read(path).map_err(|error| Failed::new(74, format!("reading `{}`: {error}", path.display())))
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

/// Of a manifest or a JSON report of ours.
fn report_id(bytes: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    Some(value.get("report")?.get("reportId")?.as_str()?.to_owned())
}

/// Milliseconds since the epoch of a date or an RFC 3339 time.
fn moment(text: &str) -> Result<i64, String> {
    let whole = if text.len() == 10 { format!("{text}T00:00:00Z") } else { text.to_owned() };
    let time = OffsetDateTime::parse(&whole, &Rfc3339)
        .map_err(|_| "a date (2026-03-01) or an RFC 3339 time (2026-03-01T09:30:00Z) is wanted".to_owned())?;
    i64::try_from(time.unix_timestamp_nanos() / 1_000_000).map_err(|_| "the time is out of range".to_owned())
}
