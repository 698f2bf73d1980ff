//! Everything that can be asked of the operations: calls of KMS, commands of the local operator, timers of the service.
//! All three go through the same pipeline.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::ids::{AccessKeyId, UserName};
use crate::ops::{Operation, Request, Response};
use crate::secret::SecretString;
use crate::store::BackupFacts;

/// One thing to do, parsed and valid in form.
#[derive(Debug, Clone)]
pub enum Task {
    Kms(Request),
    Operator(OperatorRequest),
    Timer(TimerRequest),
    /// STS GetCallerIdentity.
    CallerIdentity,
}

/// Commands of the local operator, as they travel over the operator socket.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum OperatorRequest {
    KeyList,
    /// Any of the four forms of a key id.
    KeyShow {
        key: String,
    },
    /// Without a user: one more access key of the account's root user.
    AccessKeyCreate {
        user: Option<UserName>,
    },
    AccessKeyList,
    AccessKeyDisable {
        id: AccessKeyId,
    },
    StoreBackup {
        path: PathBuf,
    },
    /// `ticket`: why the store may go back in time; stands in the audit record.
    StoreRestore {
        path: PathBuf,
        ticket: String,
    },
    Doctor,
    SweeperShow,
    /// Lets the sweeper go on after a jump of the clock.
    SweeperConfirm {
        ticket: String,
    },
}

impl OperatorRequest {
    /// The name in `operator.allow`.
    pub fn permission(&self) -> &'static str {
        match self {
            OperatorRequest::KeyList => "key:list",
            OperatorRequest::KeyShow { .. } => "key:show",
            OperatorRequest::AccessKeyCreate { .. } => "access-key:create",
            OperatorRequest::AccessKeyList => "access-key:list",
            OperatorRequest::AccessKeyDisable { .. } => "access-key:disable",
            OperatorRequest::StoreBackup { .. } => "store:backup",
            OperatorRequest::StoreRestore { .. } => "store:restore",
            OperatorRequest::Doctor => "doctor",
            OperatorRequest::SweeperShow => "sweeper:show",
            OperatorRequest::SweeperConfirm { .. } => "sweeper:confirm",
        }
    }

    /// `eventName` of the audit record.
    pub fn name(&self) -> &'static str {
        match self {
            OperatorRequest::KeyList => "KeyList",
            OperatorRequest::KeyShow { .. } => "KeyShow",
            OperatorRequest::AccessKeyCreate { .. } => "AccessKeyCreate",
            OperatorRequest::AccessKeyList => "AccessKeyList",
            OperatorRequest::AccessKeyDisable { .. } => "AccessKeyDisable",
            OperatorRequest::StoreBackup { .. } => "StoreBackup",
            OperatorRequest::StoreRestore { .. } => "StoreRestore",
            OperatorRequest::Doctor => "Doctor",
            OperatorRequest::SweeperShow => "SweeperShow",
            OperatorRequest::SweeperConfirm { .. } => "SweeperConfirm",
        }
    }

    pub fn changes(&self) -> bool {
        match self {
            OperatorRequest::AccessKeyCreate { .. }
            | OperatorRequest::AccessKeyDisable { .. }
            | OperatorRequest::StoreBackup { .. }
            | OperatorRequest::StoreRestore { .. }
            | OperatorRequest::SweeperConfirm { .. } => true,
            OperatorRequest::KeyList
            | OperatorRequest::KeyShow { .. }
            | OperatorRequest::AccessKeyList
            | OperatorRequest::Doctor
            | OperatorRequest::SweeperShow => false,
        }
    }
}

/// What the service does by itself.
#[derive(Debug, Clone)]
pub enum TimerRequest {
    /// The deletion window of this key has passed.
    DeleteKey { key: crate::ids::KeyId },
}

/// What an operation answers.
#[derive(Debug, Clone)]
pub enum Answer {
    Kms(Response),
    Operator(OperatorResponse),
    Timer,
    CallerIdentity,
}

/// Answers to the operator; JSON on the socket, text or JSON on the terminal.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum OperatorResponse {
    Keys { keys: Vec<KeyLine> },
    Key { key: Box<KeyDetails> },
    AccessKeyCreated { id: AccessKeyId, secret: ShownOnce, owner: String },
    AccessKeys { keys: Vec<AccessKeyLine> },
    AccessKeyDisabled { id: AccessKeyId },
    Backup { facts: BackupFacts },
    Restored { facts: BackupFacts },
    Doctor { report: serde_json::Value },
    Sweeper { status: SweeperStatus },
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

impl Task {
    /// `eventName` of the audit record.
    pub fn name(&self) -> &'static str {
        match self {
            Task::Kms(request) => request.operation().name(),
            Task::Operator(request) => request.name(),
            Task::Timer(TimerRequest::DeleteKey { .. }) => "DeleteKey",
            Task::CallerIdentity => "GetCallerIdentity",
        }
    }

    pub fn operation(&self) -> Option<Operation> {
        match self {
            Task::Kms(request) => Some(request.operation()),
            Task::Operator(_) | Task::Timer(_) | Task::CallerIdentity => None,
        }
    }

    /// Whether it changes anything that outlives the request: such a task has an intent record.
    pub fn changes(&self) -> bool {
        match self {
            Task::Kms(request) => request.operation().changes(),
            Task::Operator(request) => request.changes(),
            Task::Timer(TimerRequest::DeleteKey { .. }) => true,
            Task::CallerIdentity => false,
        }
    }

    pub fn is_read_only(&self) -> bool {
        match self {
            Task::Kms(request) => request.operation().is_read_only(),
            Task::Operator(_) | Task::Timer(_) | Task::CallerIdentity => !self.changes(),
        }
    }
}
