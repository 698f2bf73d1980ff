//! Commands of the local operator: what they carry, and what their permission and their record are called.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::ids::spec::{KeySpec, KeyUsage};
use crate::ids::{AccessKeyId, AccountId, AliasName, KeyId, KeyStoreId, UserName};
use crate::ops::{AttestReview, AuditKeyRequest, Ceremony, ExportRequest, IamRequest, ReportRequest, RotateGrants};

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
