//! What the log says about itself: the records that name its keys, heads, files and losses.

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::line::{Line, SYSTEM};

/// A record about the log, with its place.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub seq: u64,
    /// Milliseconds since the epoch.
    pub time: i64,
    pub fact: Fact,
}

#[derive(Debug, Clone)]
pub(super) enum Fact {
    Checkpoint(CheckpointFact),
    AuditKey(KeyFact),
    Digest(DigestFact),
    LogFile(LogFileFact),
    AcceptedLoss(Loss),
    StateSnapshot(SnapshotFact),
    Pruned(PrunedFact),
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct CheckpointFact {
    pub size: u64,
    pub root: String,
    pub note: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct KeyFact {
    pub key_use: String,
    pub generation: u32,
    pub fingerprint: String,
    /// Base64 of the SubjectPublicKeyInfo.
    pub spki: String,
    /// PEM, or base64 of the DER.
    pub certificate: Option<String>,
    pub previous_fingerprint: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DigestFact {
    pub object: String,
    /// Of the JSON inside.
    pub sha256: String,
    pub signature: Option<String>,
    /// Of the object as stored: compressed.
    pub stored_sha256: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LogFileFact {
    pub object: String,
    pub sha256: String,
    pub first_seq: u64,
    pub last_seq: u64,
    pub stored_sha256: Option<String>,
}

/// Records below a signed size were gone at a start, and an operator took responsibility.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Loss {
    pub ticket: String,
    pub signed_size: u64,
    pub remaining: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct SnapshotFact {
    pub object: String,
    pub sha256: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct PrunedFact {
    #[serde(deserialize_with = "names")]
    pub objects: Vec<String>,
}

/// Names, or objects that have one.
fn names<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Named {
        Plain(String),
        Object { object: String },
    }
    let names = Vec::<Named>::deserialize(from)?;
    Ok(names.into_iter().map(|(Named::Plain(object) | Named::Object { object })| object).collect())
}

impl Loss {
    /// Whether a head of this size need not fit any more. Where as many records remain as were signed, they were others.
    pub fn covers(&self, size: u64) -> bool {
        size <= self.signed_size && (self.remaining < size || self.remaining >= self.signed_size)
    }

    /// `seq`: of the record.
    pub fn text(&self, seq: u64) -> String {
        let Loss { ticket, signed_size, remaining } = self;
        if remaining >= signed_size {
            return format!(
                "the first {signed_size} records were not those that were signed; record {seq} admits it with ticket `{ticket}`"
            );
        }
        let last = signed_size - 1;
        format!("records {remaining} to {last} were signed and lost; record {seq} admits it with ticket `{ticket}`")
    }
}

impl Fact {
    /// `None`: the record is about something else.
    pub fn of(line: &Line<'_>) -> Option<Result<Fact, String>> {
        if line.event_type != SYSTEM || line.error_code.is_some() {
            return None;
        }
        let details = line.additional_event_data.details.map_or("null", RawValue::get);
        let fact = match &*line.event_name {
            "Checkpoint" => serde_json::from_str(details).map(Fact::Checkpoint),
            "AuditKey" => serde_json::from_str(details).map(Fact::AuditKey),
            "Digest" => serde_json::from_str(details).map(Fact::Digest),
            "LogFile" => serde_json::from_str(details).map(Fact::LogFile),
            "AcceptedLoss" => serde_json::from_str(details).map(Fact::AcceptedLoss),
            "StateSnapshot" => serde_json::from_str(details).map(Fact::StateSnapshot),
            "Pruned" => serde_json::from_str(details).map(Fact::Pruned),
            _ => return None,
        };
        Some(fact.map_err(|error| format!("the facts of `{}` do not parse: {error}", line.event_name)))
    }
}
