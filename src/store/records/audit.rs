//! Keys of the audit trail: the source of truth about what is in the token and what was given out about it.

use serde::{Deserialize, Serialize};

/// Where a key of the trail is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum AuditKeyStage {
    /// A record without a finished object; nobody was told.
    Creating,
    /// The pair is in the token; the log may name it. It has signed its own certificate at most.
    Made,
    /// It signs.
    Current,
    /// It signs no more, and is to be destroyed.
    Retiring,
    /// It signs no more; its objects were destroyed.
    Retired,
    /// It signs no more; its objects are in the token, as the operator wanted.
    Kept,
    /// It never came to sign. Its number is not given again, since the log may have it.
    Abandoned,
}

/// One generation of one of the trail's keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditKeyRecord {
    /// `digest`, `checkpoint`.
    pub key_use: String,
    /// 1, 2, …
    pub generation: u32,
    pub stage: AuditKeyStage,
    pub created: i64,
    /// First half of `MaterialId`.
    #[serde(with = "super::bytes_hex")]
    pub material: Vec<u8>,
    /// `CKA_ID` of the objects where it is not the one that follows from `material` and generation.
    #[serde(default, with = "super::opt_bytes_hex", skip_serializing_if = "Option::is_none")]
    pub object_id: Option<Vec<u8>>,
    pub label: String,
    /// As the token gave it.
    #[serde(with = "super::bytes_hex")]
    pub fingerprint: Vec<u8>,
    /// SubjectPublicKeyInfo, DER.
    #[serde(with = "super::bytes_hex")]
    pub spki: Vec<u8>,
    /// The attributes read back after generation, as the token gave them.
    pub evidence: serde_json::Value,
    /// X.509, DER, base64: its own first, then those of the authorities above it.
    pub certificates: Vec<String>,
    pub valid_from: i64,
    /// `None`: it signs now.
    pub valid_until: Option<i64>,
}
