//! The audit log: durable records in a hash chain, before the answer. Knows no plaintext, no key and no HTTP; the
//! verifier (`verify/`) uses nothing else of ours. Source: audit.md §7.2 to §7.4, §7.9.

pub mod checkpoint;
pub mod export;
mod files;
pub mod follow;
pub mod index;
mod journal;
mod leaves;
mod record;
mod recovery;
pub mod repair;
pub mod scan;
pub mod seal;
mod segment;
pub mod signer;
pub mod snapshots;
mod space;
mod strangers;
pub mod tail;
pub mod timestamp;
pub mod token_log;
pub mod verify;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;

pub use checkpoint::{Checkpoint, CheckpointError, Checkpoints};
pub use files::place;
pub use journal::{Head, Journal, room};
pub use signer::{AuditKey, CoverAudit, KeyUse, SignAudit, SignError, Signed};
pub use space::Load;
pub use strangers::Strangers;
pub use verify::line::Leaf;

pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Proof that a record is on stable storage. Only the journal makes it, and an answer cannot leave without it.
#[derive(Debug)]
pub struct Recorded {
    seq: u64,
    event_id: uuid::Uuid,
}

impl Recorded {
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// `eventID` of the record.
    pub fn event_id(&self) -> uuid::Uuid {
        self.event_id
    }
}

/// CloudTrail's `userIdentity`, the variants that exist here.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UserIdentity {
    /// `Root`, `IAMUser`, `AssumedRole`, `FederatedUser`, `WebIdentityUser`, `AWSService`, `HsmBridgeOperator`, `Unknown`; none
    /// for the service itself.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arn: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_name: Option<String>,
    /// Temporary credentials only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_context: Option<Box<SessionContext>>,
    /// `WebIdentityUser` only: the issuer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity_provider: Option<String>,
    /// `AWS Internal` for timers of the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invoked_by: Option<String>,
    /// Operator only: OS user id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os_user_id: Option<u32>,
}

/// How the temporary credentials of a call came to be. Source: audit.md §1.2.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionContext {
    /// The role, or the user of a federated session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_issuer: Option<SessionIssuer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub web_id_federation_data: Option<WebIdFederationData>,
    pub attributes: SessionAttributes,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_identity: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionIssuer {
    /// `Role` or `IAMUser`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub principal_id: String,
    pub arn: String,
    pub account_id: String,
    pub user_name: String,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WebIdFederationData {
    /// ARN of the identity provider.
    pub federated_provider: String,
    /// Condition keys of its token.
    pub attributes: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionAttributes {
    /// `2026-03-04T08:00:11Z`
    pub creation_date: String,
    /// `true` or `false`, a text as in CloudTrail.
    pub mfa_authenticated: &'static str,
}

impl SessionAttributes {
    /// `issued`: seconds since the epoch.
    pub fn new(issued: i64, mfa: bool) -> Self {
        let mfa_authenticated = if mfa { "true" } else { "false" };
        Self { creation_date: format!("{}Z", record::seconds(issued)), mfa_authenticated }
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct Resource {
    #[serde(rename = "accountId")]
    pub account_id: String,
    /// `AWS::KMS::Key`, `AWS::KMS::Alias` or `AWS::IAM::Role`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    #[serde(rename = "ARN")]
    pub arn: String,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HsmFacts {
    /// None of these four where the token refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_serial: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mechanism: Option<&'static str>,
    /// `CKR_OK`, or why it refused.
    pub rv: String,
    /// The C function that refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micros: Option<u32>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Authorization {
    /// `Allow` or `Deny`.
    pub decision: &'static str,
    /// What the last check was decided by.
    #[serde(flatten)]
    pub basis: Basis,
    /// Where there was more than one: all, in the order asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<AuthorizationCheck>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationCheck {
    /// `kms:Decrypt`
    pub action: &'static str,
    /// ARN or `*`.
    pub resource: String,
    pub decision: &'static str,
    #[serde(flatten)]
    pub basis: Basis,
}

/// What a check was decided by.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Basis {
    /// `KeyPolicy`, `IdentityPolicy`, `Grant` and so on.
    pub source: &'static str,
    /// A Deny statement said no.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub explicit_deny: bool,
    /// Name or ARN of the policy with the statement that decided; a key's is `default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// `key-policy`, `user-inline`, `role-managed` and so on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statement_id: Option<String>,
    /// From 0, in the policy's order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statement_index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grant_id: Option<String>,
    /// Of the key policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_version: Option<u64>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsDetails {
    pub tls_version: String,
    pub cipher_suite: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_provided_host_header: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_exchange: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventType {
    AwsApiCall,
    AwsServiceEvent,
    /// What is about to be done; the outcome has the same request id.
    HsmBridgeIntent,
    /// An operator's command.
    HsmBridgeOperatorCall,
    /// Start, stop, recovery, aggregated strangers and the like.
    HsmBridgeSystem,
}

/// One record before it has its place in the chain. `additional` members stand in `additionalEventData` beside `audit`.
#[derive(Debug, Clone)]
pub struct Event {
    pub event_type: EventType,
    pub user_identity: UserIdentity,
    /// Milliseconds since the epoch.
    pub time: i64,
    /// `kms.amazonaws.com`, `sts.amazonaws.com`, `hsm-bridge`.
    pub source: &'static str,
    pub name: String,
    pub region: String,
    pub source_ip: String,
    pub user_agent: Option<String>,
    pub error_code: Option<String>,
    pub error_message: Option<String>,
    /// Built from an allow-list by the front; `None` is `null`.
    pub request_parameters: Option<Box<RawValue>>,
    pub response_elements: Option<Box<RawValue>>,
    pub request_id: Option<String>,
    pub read_only: bool,
    pub resources: Vec<Resource>,
    pub recipient_account: String,
    pub tls: Option<TlsDetails>,
    pub additional: Additional,
}

impl Event {
    /// A record of the service about itself; other kinds of records change what differs. `time`: milliseconds since the
    /// epoch.
    pub fn system(name: &str, region: &str, account: &str, time: i64, details: serde_json::Value) -> Event {
        Event {
            event_type: EventType::HsmBridgeSystem,
            user_identity: UserIdentity {
                kind: None,
                principal_id: None,
                arn: None,
                account_id: Some(account.to_owned()),
                access_key_id: None,
                user_name: None,
                invoked_by: Some("AWS Internal".to_owned()),
                os_user_id: None,
                ..UserIdentity::default()
            },
            time,
            source: "hsm-bridge",
            name: name.to_owned(),
            region: region.to_owned(),
            source_ip: "AWS Internal".to_owned(),
            user_agent: None,
            error_code: None,
            error_message: None,
            request_parameters: None,
            response_elements: None,
            request_id: None,
            read_only: false,
            resources: Vec::new(),
            recipient_account: account.to_owned(),
            tls: None,
            additional: Additional { details: Some(details), ..Additional::default() },
        }
    }
}

#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Additional {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_material_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_key_material_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_key_material_id: Option<String>,
    /// `current` or `retired`: which of an alias's keys opened the ciphertext, where the caller named an alias.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias_generation: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom_key_store_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom_key_store_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// JSON in a string, here and in the next two, as CloudTrail has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_keys: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_keys_deletion_status: Option<String>,
    /// The grant that RetireGrant retired.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grant_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hsm: Option<HsmFacts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorization: Option<Authorization>,
    /// The store's version after the change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store_version: Option<u64>,
    /// What became different, as a merge patch on the state of keys, identities and tokens: reports replay it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_change: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window_seconds: Option<u64>,
    /// Where a service signed for the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<SignedBy>,
    /// Facts of system records (reason of a start, ticket, what recovery found…).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<serde_json::Value>,
}

/// The service that signed for the caller, and from where: `sourceIPAddress` is its name then, as in CloudTrail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SignedBy {
    pub service: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_ip_address: Option<String>,
}

#[derive(Debug, Clone)]
pub struct Settings {
    /// `audit/<trail>`: LOCK and `journal/` are made in it.
    pub dir: PathBuf,
    /// `arn:aws:cloudtrail:<region>:<account>:trail/<name>`: bound into the chain's first link.
    pub trail_arn: String,
    pub region: String,
    pub account: String,
    /// A new segment after this many bytes (64 MiB) and this long (1 h).
    pub segment_bytes: u64,
    pub segment_age: Duration,
    /// Requests are refused below this share of free space (0.05).
    pub refuse_below_free: f64,
    /// Warned of below this share of free space (0.2).
    pub warn_below_free: f64,
    /// Kept free for the last records of a full disk; 0: nothing.
    pub reserve_bytes: u64,
    /// Ticket for going on although records that were signed are missing.
    pub accept_loss: Option<String>,
    /// How long a batch may take to reach the disk before the log counts as failed.
    pub deadline: Duration,
}

/// An intent without an outcome, found at start.
#[derive(Debug, Clone)]
pub struct DanglingIntent {
    pub seq: u64,
    pub request_id: String,
    pub name: String,
    /// ARNs of the intent's `resources`.
    pub resources: Vec<String>,
    /// The whole line.
    pub line: String,
}

/// What recovery at start found.
#[derive(Debug, Clone, Default)]
pub struct Recovery {
    /// The log existed before.
    pub existed: bool,
    /// The last segment had no `SegmentEnd`.
    pub unclean: bool,
    pub torn_bytes: u64,
    /// Where they are kept, in the journal's directory.
    pub torn_file: Option<String>,
    /// Highest `storeVersion` in the journal.
    pub last_store_version: Option<u64>,
    /// Seq of the last record; `None`: the log is new.
    pub last_seq: Option<u64>,
    pub dangling: Vec<DanglingIntent>,
    /// The tree that the newest checkpoint was signed over, as the journal has it.
    pub signed: Option<verify::tree::Frontier>,
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum AuditError {
    #[error("the audit log in `{dir}` is locked by process {pid}")]
    Locked { dir: PathBuf, pid: String },
    /// A record does not verify, at start.
    #[error("the audit log does not verify: {0}")]
    Corrupt(String),
    /// Records that were signed are missing, or are not those that were signed, at start.
    #[error("the audit log was cut or changed: {0}")]
    Truncated(String),
    /// Nothing of the batch reached the file; the writer goes on.
    #[error("no space for the audit log in `{dir}`")]
    NoSpace { dir: PathBuf },
    /// Less than the configured share is free: requests are refused before they act.
    #[error("less than {percent} % free space for the audit log in `{dir}`")]
    LowSpace { dir: PathBuf, percent: u32 },
    /// The log is poisoned: nothing is retried on that file, the process drains and exits 74.
    #[error("the audit log failed: {0}")]
    Failed(String),
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
