//! Exports: records of a range in the formats that auditors' and SIEMs' tools read, signed so that the stock AWS CLI verifies
//! them, with the proof that they are in the signed log. Reads the files alone; blocking, in bounded memory. Source: audit.md
//! §2.9, §5.3, §7.8; docs/exports.md describes the bundle.

mod bundle;
mod cef;
pub mod csv;
mod manifest;
pub mod ocsf;
mod parts;
mod pass;
mod place;
mod range;
mod record;
pub mod result_sign;
mod source;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use crate::audit::signer::{AuditKey, SignError, Signed};
pub use bundle::make;
pub use manifest::Manifest;

/// Bytes of one result file before compression.
pub const PART_BYTES: u64 = 100 << 20;

/// What records, in which forms. Times in microseconds since the epoch, of when a record was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    pub from: Option<i64>,
    /// Exclusive.
    pub to: Option<i64>,
    pub formats: Vec<Format>,
    pub ocsf: ocsf::Version,
    pub filter: Filter,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Csv,
    /// The records as they stand in the journal; always there.
    Jsonl,
    Ocsf,
    Cef,
    CloudTrail,
}

impl Format {
    pub const NAMES: [&str; 5] = ["csv", "jsonl", "ocsf", "cef", "cloudtrail"];

    pub fn parse(name: &str) -> Option<Format> {
        let all = [Format::Csv, Format::Jsonl, Format::Ocsf, Format::Cef, Format::CloudTrail];
        Self::NAMES.iter().zip(all).find_map(|(known, format)| (*known == name).then_some(format))
    }
}

/// Which records of the range. Texts match whole values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Filter {
    /// ARN or id of a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// ARN, user name, principal id or access key of the caller, or ARN of its role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub errors_only: bool,
}

/// Of which log, for whom, and where it goes.
pub struct Job<'a> {
    /// The trail's directory.
    pub dir: PathBuf,
    pub trail_arn: String,
    pub account: String,
    pub region: String,
    /// Before `AWSLogs/`.
    pub key_prefix: Option<String>,
    /// Names the export: a UUID.
    pub id: String,
    /// Microseconds since the epoch.
    pub now: i64,
    /// ARN of whoever asked, and the request.
    pub generated_by: String,
    pub request_id: String,
    /// Records below this number are on stable storage, and in the export if they are in its range.
    pub durable: u64,
    /// What is known of the host's clock.
    pub clock: String,
    /// A second copy, for the operator; it must not exist yet.
    pub out: Option<PathBuf>,
    /// The log's file system keeps this share free.
    pub keep_free: f64,
    pub part_bytes: u64,
    pub keys: Vec<Arc<AuditKey>>,
    /// Signs with the digest key.
    pub sign: &'a dyn Fn(Vec<u8>) -> Result<Signed, SignError>,
    /// Records read, of how many.
    pub progress: &'a dyn Fn(u64, u64),
}

/// A finished export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Made {
    pub export_id: String,
    /// Its folder in the bucket.
    pub prefix: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out: Option<PathBuf>,
    pub first_seq: Option<u64>,
    pub last_seq: Option<u64>,
    /// Records in `records.jsonl.gz`.
    pub rows: u64,
    /// Of the signed tree head that the proof leads to.
    pub checkpoint_size: Option<u64>,
    /// Records of the range that no signed tree head covers yet.
    pub unsigned: u64,
    pub files: Vec<String>,
    /// Compressed bytes of all files.
    pub bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what}: {error}")]
    Io { what: String, error: io::Error },
    /// What is exported would not be what was recorded.
    #[error("the audit log does not verify: {0}; run `hsm-bridge audit verify`")]
    Damaged(String),
    #[error("the export would leave too little free space for the audit log")]
    NoRoom,
    #[error("{0}")]
    Sign(#[from] SignError),
    #[error("`{0}` exists already")]
    Exists(PathBuf),
}

fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    |error| Error::Io { what: what.into(), error }
}

/// 1 (informational) to 5 (critical). Source: audit.md §5.3.
fn severity(record: &record::Record<'_>) -> u8 {
    match record.event_name.as_str() {
        "AuditTampering" | "AuditFailure" | "AcceptedLoss" | "StopLogging" | "DeleteTrail" | "UpdateTrail" => 5,
        "ScheduleKeyDeletion" | "DisableKey" | "DeleteImportedKeyMaterial" | "ExportAudit" | "DeleteKey" => 4,
        _ if record.denied() || record.error_code.as_deref() == Some("AccessDenied") => 3,
        "PutKeyPolicy" | "CreateGrant" | "OutcomeUnknown" => 3,
        _ if !record.read_only && record.event_type != "HsmBridgeSystem" => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests;
