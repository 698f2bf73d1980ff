//! What the local operator is answered.

use serde::{Deserialize, Serialize};

use crate::ids::{AccessKeyId, AliasName, KeyId};
use crate::ops::RotationDone;
use crate::secret::SecretString;
use crate::store::BackupFacts;

/// Answers to the operator; JSON on the socket, text or JSON on the terminal.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum OperatorResponse {
    Keys {
        keys: Vec<KeyLine>,
    },
    Key {
        key: Box<KeyDetails>,
    },
    AccessKeyCreated {
        id: AccessKeyId,
        secret: ShownOnce,
        owner: String,
    },
    AccessKeys {
        keys: Vec<AccessKeyLine>,
    },
    AccessKeyDisabled {
        id: AccessKeyId,
    },
    Backup {
        facts: BackupFacts,
    },
    Restored {
        facts: BackupFacts,
    },
    Doctor {
        report: serde_json::Value,
    },
    Sweeper {
        status: SweeperStatus,
    },
    /// One line per configured token.
    Tokens {
        tokens: Vec<serde_json::Value>,
    },
    AuditHash {
        hash: String,
    },
    /// An export or a report: what was made, and where.
    AuditMade {
        made: serde_json::Value,
    },
    Reconciliation {
        report: serde_json::Value,
    },
    PinChanged {
        token: String,
    },
    /// Each PIN of the token may be tried once more on this host.
    PinMarksRemoved {
        token: String,
        removed: usize,
    },
    TokenReplaced {
        token: String,
        serial: String,
        keys_checked: u64,
    },
    Adopted {
        key: Box<KeyDetails>,
    },
    /// The statement exactly as signed, the signature (base64), the public key (PEM).
    Attestation {
        statement: String,
        signature: String,
        public_key: String,
        algorithm: String,
    },
    Aliases {
        aliases: Vec<serde_json::Value>,
    },
    AliasHistory {
        alias: AliasName,
        entries: Vec<serde_json::Value>,
    },
    AliasHistoryDropped {
        alias: AliasName,
        key: KeyId,
    },
    Rotated {
        done: RotationDone,
    },
    RotationPlan {
        plan: serde_json::Value,
    },
    RotationReport {
        report: serde_json::Value,
    },
    /// What an `iam` command shows or did: AWS-format JSON.
    Iam {
        report: serde_json::Value,
    },
    Simulation {
        report: serde_json::Value,
    },
    /// Audit files that were deleted, or would be.
    Pruned {
        plan: serde_json::Value,
    },
    KeyCreated {
        key: Box<KeyDetails>,
    },
    /// A report: what was made of it and where.
    AuditReport {
        report: serde_json::Value,
    },
    /// It stands in the log.
    AuditNoted {
        what: String,
    },
    /// What an `audit key` command shows or did.
    AuditKeys {
        report: serde_json::Value,
    },
    /// Keys whose deletion is scheduled, and those refused with the reason.
    Retired {
        scheduled: Vec<String>,
        refused: Vec<(String, String)>,
    },
}

/// The secret of a new access key on its way to the terminal: nowhere else and never again.
#[derive(Debug, Clone)]
pub struct ShownOnce(pub SecretString);

impl Serialize for ShownOnce {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.0.expose())
    }
}

impl<'de> Deserialize<'de> for ShownOnce {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Self(SecretString::new(String::deserialize(from)?)))
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeyLine {
    pub key_id: String,
    pub arn: String,
    pub spec: String,
    pub usage: String,
    pub state: String,
    pub aliases: Vec<String>,
    pub description: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeyDetails {
    pub line: KeyLine,
    /// Seconds since the epoch, UTC text.
    pub created: String,
    pub deletion_date: Option<String>,
    pub tags: Vec<(String, String)>,
    pub policy: String,
    pub policy_version: u64,
    pub materials: Vec<MaterialLine>,
    /// Symmetric keys: encryptions set aside of the budget of the current material.
    pub gcm_reserved: Option<u64>,
    pub gcm_limit: Option<u64>,
    #[serde(default)]
    pub grants: u64,
    /// SubjectPublicKeyInfo, PEM; key pairs only.
    pub public_key: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MaterialLine {
    pub generation: u32,
    pub material_id: String,
    /// `CKA_ID`, hex.
    pub cka_id: String,
    pub cka_label: String,
    pub evidence: serde_json::Value,
    /// Of a key store of several tokens: those that hold it, and those that are not known to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held_by: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing_from: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AccessKeyLine {
    pub id: AccessKeyId,
    pub owner: String,
    pub status: String,
    pub created: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SweeperStatus {
    pub running: bool,
    /// Why it does not run.
    pub stopped_because: Option<String>,
    pub pending_deletions: u64,
}
