//! Everything that can be asked of the operations: calls of KMS, commands of the local operator, timers of the service.
//! All three go through the same pipeline.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::authn::Caller;
use crate::ids::spec::{KeySpec, KeyUsage};
use crate::ids::{AccessKeyId, AccountId, AliasName, KeyId, KeyStoreId, UserName};
use crate::ops::{
    AttestReview, AuditAnswer, AuditKeyRequest, AuditRequest, Ceremony, ExportRequest, IamRequest, ManagedKey, OpError,
    Operation, ReportRequest, Request, Response, RotateGrants, RotationDone, StsRequest, StsResponse,
};
use crate::secret::SecretString;
use crate::store::BackupFacts;

/// One thing to do, parsed and valid in form.
#[derive(Debug, Clone)]
pub enum Task {
    Kms(Request),
    Operator(OperatorRequest),
    Timer(TimerRequest),
    Sts(StsRequest),
    /// Readers of the log, over the network.
    Audit(AuditRequest),
}

/// Commands of the local operator, as they travel over the operator socket.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum OperatorRequest {
    KeyList,
    /// Any of the four forms of a key id.
    KeyShow {
        key: String,
        /// Where the name is; `None`: in the deployment's own account.
        account: Option<AccountId>,
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
    /// Deletes audit files whose retention has ended.
    AuditPrune {
        dry_run: bool,
    },
    /// Lets the sweeper go on after a jump of the clock.
    SweeperConfirm {
        ticket: String,
    },
    TokenList,
    /// Compares token and store; `None`: all connected tokens. Tokens are named as in the configuration, `default` for `[token]`.
    TokenReconcile {
        token: Option<String>,
    },
    /// Reads a new PIN: from the configured source, or from a file of the server's host. `retry`: also where this host has seen
    /// the token reject it; of a custom token without a file the marks alone are removed.
    TokenPin {
        token: Option<String>,
        pin_file: Option<PathBuf>,
        #[serde(default)]
        retry: bool,
    },
    /// Takes a token with another serial in the place of the known one, once every key's fingerprint was checked on it.
    TokenReplace {
        token: String,
        ticket: String,
    },
    KeyAdopt(KeyAdopt),
    KeyAttest {
        key: String,
        account: Option<AccountId>,
    },
    AliasList,
    AliasHistory {
        alias: AliasName,
        account: Option<AccountId>,
    },
    /// From now on Decrypt by this alias refuses the key.
    AliasHistoryDrop {
        alias: AliasName,
        account: Option<AccountId>,
        key: KeyId,
    },
    Rotate {
        alias: AliasName,
        account: Option<AccountId>,
        key_spec: Option<KeySpec>,
        reason: Option<String>,
        grants: Option<RotateGrants>,
    },
    /// What `Rotate` would do.
    RotatePlan {
        alias: AliasName,
        account: Option<AccountId>,
        key_spec: Option<KeySpec>,
        grants: Option<RotateGrants>,
    },
    /// `max_age_days`: `None` takes the configuration's.
    RotateReport {
        max_age_days: Option<u32>,
    },
    RotateRetire(RotateRetire),
    Iam(IamRequest),
    /// Why a request would be allowed or denied.
    PolicySimulate(PolicySimulate),
    /// A new key with the console's policy for administrators and users.
    KeyCreate(KeyCreate),
    /// Records of a range as files, signed and with their proof.
    AuditExport(ExportRequest),
    /// What records have instead of a value of an encryption context.
    AuditHash {
        value: String,
    },
    AuditKey(AuditKeyRequest),
    /// A report for auditors.
    AuditReport(ReportRequest),
    /// Somebody reviewed a report, or acknowledged a duty.
    AttestReview(AttestReview),
    /// A key ceremony was held.
    Ceremony(Ceremony),
}

/// `hsm-bridge policy simulate`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicySimulate {
    /// ARN of a user, role, role session, federated user, root user, or a service's name.
    pub principal: String,
    /// `kms:Decrypt`
    pub action: String,
    /// Any form of a key id; `None`: `*`.
    pub key: Option<String>,
    /// Encryption context.
    pub context: Vec<(String, String)>,
    /// Condition keys set by hand, `aws:SourceIp=10.0.0.1` for example.
    pub condition_keys: Vec<(String, String)>,
    /// Sessions: the session policy, as text.
    pub session_policy: Option<String>,
    /// Federated users: the user that called GetFederationToken.
    pub federated_by: Option<String>,
    /// Where names without an account are; `None`: the deployment's own.
    pub account: Option<AccountId>,
}

/// `hsm-bridge key create`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyCreate {
    pub account: Option<AccountId>,
    pub key_spec: KeySpec,
    pub key_usage: Option<KeyUsage>,
    pub description: String,
    pub tags: Vec<(String, String)>,
    pub alias: Option<AliasName>,
    /// ARNs, or names of users and roles of the account (`user/alice`, `role/ops`).
    pub admins: Vec<String>,
    pub users: Vec<String>,
    pub admins_may_delete: bool,
    pub key_store: Option<KeyStoreId>,
}

/// An object of a token that shall become a key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyAdopt {
    /// Whose key it will be; `None`: the deployment's own account.
    pub account: Option<AccountId>,
    /// `None`: the default key store.
    pub key_store: Option<KeyStoreId>,
    /// `CKA_ID`, hex; at least one of id and label.
    pub id: Option<String>,
    pub label: Option<String>,
    /// Only where the kind of key leaves a choice.
    pub usage: Option<KeyUsage>,
    pub description: String,
    pub alias: Option<AliasName>,
    /// Takes an extractable key all the same.
    pub allow_extractable: bool,
    /// Encryptions that the key has behind it: charged to its GCM budget.
    pub encryptions_so_far: u64,
}

/// Schedules the deletion of retired keys of an alias.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateRetire {
    pub alias: AliasName,
    pub account: Option<AccountId>,
    /// `None`: every key of the history that nothing forbids.
    pub key: Option<KeyId>,
    /// A key that was used within this many days is refused; `None` takes the configuration's.
    pub unused_days: Option<u32>,
    /// 7 to 30.
    pub pending_window_in_days: u32,
    /// Why a key that was used is retired all the same.
    pub force: Option<String>,
}

impl OperatorRequest {
    /// The account that names in the command are of; `None`: the deployment's own.
    pub fn account(&self) -> Option<&AccountId> {
        match self {
            OperatorRequest::KeyShow { account, .. }
            | OperatorRequest::KeyAttest { account, .. }
            | OperatorRequest::KeyAdopt(KeyAdopt { account, .. })
            | OperatorRequest::AliasHistory { account, .. }
            | OperatorRequest::AliasHistoryDrop { account, .. }
            | OperatorRequest::Rotate { account, .. }
            | OperatorRequest::RotatePlan { account, .. }
            | OperatorRequest::RotateRetire(RotateRetire { account, .. })
            | OperatorRequest::KeyCreate(KeyCreate { account, .. })
            | OperatorRequest::PolicySimulate(PolicySimulate { account, .. }) => account.as_ref(),
            _ => None,
        }
    }

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
            OperatorRequest::AuditPrune { .. } => "audit:prune",
            OperatorRequest::TokenList => "token:list",
            OperatorRequest::TokenReconcile { .. } => "token:reconcile",
            OperatorRequest::TokenPin { .. } => "token:pin",
            OperatorRequest::TokenReplace { .. } => "token:replace",
            OperatorRequest::KeyAdopt(_) => "key:adopt",
            OperatorRequest::KeyAttest { .. } => "key:attest",
            OperatorRequest::AliasList => "alias:list",
            OperatorRequest::AliasHistory { .. } => "alias:history",
            OperatorRequest::AliasHistoryDrop { .. } => "alias:history-drop",
            OperatorRequest::Rotate { .. } => "rotate",
            OperatorRequest::RotatePlan { .. } => "rotate:plan",
            OperatorRequest::RotateReport { .. } => "rotate:report",
            OperatorRequest::RotateRetire(_) => "rotate:retire",
            OperatorRequest::Iam(request) => request.permission(),
            OperatorRequest::PolicySimulate(_) => "policy:simulate",
            OperatorRequest::KeyCreate(_) => "key:create",
            OperatorRequest::AuditExport(_) => "audit:export",
            OperatorRequest::AuditHash { .. } => "audit:hash",
            OperatorRequest::AuditKey(request) => request.permission(),
            OperatorRequest::AuditReport(_) => "audit:report",
            OperatorRequest::AttestReview(_) => "audit:attest-review",
            OperatorRequest::Ceremony(_) => "audit:ceremony",
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
            OperatorRequest::AuditPrune { .. } => "AuditPrune",
            OperatorRequest::TokenList => "TokenList",
            OperatorRequest::TokenReconcile { .. } => "TokenReconcile",
            OperatorRequest::TokenPin { .. } => "TokenPin",
            OperatorRequest::TokenReplace { .. } => "TokenReplace",
            OperatorRequest::KeyAdopt(_) => "KeyAdopt",
            OperatorRequest::KeyAttest { .. } => "KeyAttest",
            OperatorRequest::AliasList => "AliasList",
            OperatorRequest::AliasHistory { .. } => "AliasHistory",
            OperatorRequest::AliasHistoryDrop { .. } => "AliasHistoryDrop",
            OperatorRequest::Rotate { .. } => "RotateAlias",
            OperatorRequest::RotatePlan { .. } => "RotatePlan",
            OperatorRequest::RotateReport { .. } => "RotateReport",
            OperatorRequest::RotateRetire(_) => "RotateRetire",
            OperatorRequest::Iam(request) => request.name(),
            OperatorRequest::PolicySimulate(_) => "PolicySimulate",
            OperatorRequest::KeyCreate(_) => "CreateKey",
            OperatorRequest::AuditExport(_) => "ExportAudit",
            OperatorRequest::AuditHash { .. } => "AuditHash",
            OperatorRequest::AuditKey(request) => request.name(),
            OperatorRequest::AuditReport(_) => "AuditReport",
            OperatorRequest::AttestReview(_) => "AttestReview",
            OperatorRequest::Ceremony(_) => "Ceremony",
        }
    }

    /// `requestParameters` of the audit record.
    pub fn recorded(&self) -> Option<Box<serde_json::value::RawValue>> {
        match self {
            OperatorRequest::Iam(request) => {
                let mut recorded = request.recorded()?;
                recorded.as_object_mut()?.insert("command".to_owned(), "iam".into());
                serde_json::value::to_raw_value(&recorded).ok()
            }
            // The value is what is not to be in the log.
            OperatorRequest::AuditHash { .. } => {
                serde_json::value::to_raw_value(&serde_json::json!({ "command": "audit-hash" })).ok()
            }
            other => serde_json::value::to_raw_value(other).ok(),
        }
    }

    pub fn changes(&self) -> bool {
        match self {
            OperatorRequest::AccessKeyCreate { .. }
            | OperatorRequest::AccessKeyDisable { .. }
            | OperatorRequest::StoreBackup { .. }
            | OperatorRequest::StoreRestore { .. }
            | OperatorRequest::SweeperConfirm { .. }
            | OperatorRequest::TokenPin { .. }
            | OperatorRequest::TokenReplace { .. }
            | OperatorRequest::KeyAdopt(_)
            // The first one makes the token key that signs.
            | OperatorRequest::KeyAttest { .. }
            | OperatorRequest::AliasHistoryDrop { .. }
            | OperatorRequest::Rotate { .. }
            | OperatorRequest::RotateRetire(_)
            | OperatorRequest::KeyCreate(_) => true,
            OperatorRequest::Iam(request) => request.changes(),
            OperatorRequest::AuditKey(request) => request.changes(),
            OperatorRequest::AuditPrune { dry_run } => !dry_run,
            // What they change is the log.
            OperatorRequest::AttestReview(_) | OperatorRequest::Ceremony(_) => true,
            OperatorRequest::AuditReport(_) => false,
            OperatorRequest::PolicySimulate(_)
            | OperatorRequest::AuditExport(_)
            | OperatorRequest::AuditHash { .. }
            | OperatorRequest::KeyList
            | OperatorRequest::KeyShow { .. }
            | OperatorRequest::AccessKeyList
            | OperatorRequest::Doctor
            | OperatorRequest::SweeperShow
            | OperatorRequest::TokenList
            | OperatorRequest::TokenReconcile { .. }
            | OperatorRequest::AliasList
            | OperatorRequest::AliasHistory { .. }
            | OperatorRequest::RotatePlan { .. }
            | OperatorRequest::RotateReport { .. } => false,
        }
    }
}

/// What the service does by itself.
#[derive(Debug, Clone)]
pub enum TimerRequest {
    /// The deletion window of this key has passed.
    DeleteKey { key: KeyId },
    /// A key store waits to be connected: after ConnectCustomKeyStore, and at start.
    ConnectKeyStore { id: KeyStoreId },
    /// A service named its AWS managed key of an account for the first time.
    MakeManagedKey(ManagedKey),
    /// The key behind these aliases has used its share of the GCM budget (`rotation.at_usage`).
    Rotate { key: KeyId },
    /// A key for session tokens where one is needed; what no session needs any more goes.
    SessionKeys,
}

/// What an operation answers.
#[derive(Debug, Clone)]
pub enum Answer {
    Kms(Response),
    Operator(OperatorResponse),
    Timer,
    Sts(StsResponse),
    Audit(AuditAnswer),
}

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
    /// What an `audit key` command shows or did.
    /// A report: what was made of it and where.
    AuditReport {
        report: serde_json::Value,
    },
    /// It stands in the log.
    AuditNoted {
        what: String,
    },
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

impl Task {
    /// `eventName` of the audit record.
    pub fn name(&self) -> &'static str {
        match self {
            Task::Kms(request) => request.operation().name(),
            Task::Operator(request) => request.name(),
            Task::Timer(TimerRequest::DeleteKey { .. }) => "DeleteKey",
            Task::Timer(TimerRequest::ConnectKeyStore { .. }) => "KeyStoreConnection",
            Task::Timer(TimerRequest::Rotate { .. }) => "RotateAlias",
            Task::Timer(TimerRequest::MakeManagedKey(_)) => "CreateKey",
            Task::Timer(TimerRequest::SessionKeys) => "SessionKeys",
            Task::Sts(request) => request.name(),
            Task::Audit(request) => request.name(),
        }
    }

    /// With what the caller's session brings along.
    pub fn asked_by(self, caller: &Caller) -> Result<Self, OpError> {
        match self {
            Task::Sts(request) => request.asked_by(caller).map(Task::Sts),
            other => Ok(other),
        }
    }

    pub fn operation(&self) -> Option<Operation> {
        match self {
            Task::Kms(request) => Some(request.operation()),
            Task::Operator(_) | Task::Timer(_) | Task::Sts(_) | Task::Audit(_) => None,
        }
    }

    /// Whether it changes anything that outlives the request: such a task has an intent record.
    pub fn changes(&self) -> bool {
        match self {
            Task::Kms(request) => request.operation().changes(),
            Task::Operator(request) => request.changes(),
            Task::Timer(_) => true,
            Task::Sts(_) | Task::Audit(_) => false,
        }
    }

    pub fn is_read_only(&self) -> bool {
        match self {
            Task::Kms(request) => request.operation().is_read_only(),
            Task::Audit(request) => !request.is_change(),
            Task::Operator(_) | Task::Timer(_) | Task::Sts(_) => !self.changes(),
        }
    }
}
