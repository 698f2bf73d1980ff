//! What keys, identities and tokens are at one moment, in a form that may leave the store: state snapshots of the log are made
//! of it, and each record of a change carries what it changed, so that any moment in between can be told. Allow-lists: a
//! secret has no place in these structs. Source: audit.md §5.2.

mod change;
pub(super) mod restore;
mod shown;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::spec::{GrantOperation, KeySpec, KeyUsage};
use crate::ids::{
    AccessKeyId, AccountId, AliasName, ClusterId, GrantId, GroupName, IamPath, KeyId, KeyStoreId, PolicyArn,
    PolicyName, Region, RoleName, ServiceName, UserName,
};
use crate::store::{GrantConstraints, GrantPrincipal, PolicyDocument};

pub use change::{Parts, apply};

/// Of the form of these structs.
pub const FORMAT: u32 = 1;

/// Everything, by kind. Times are milliseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    pub format: u32,
    /// When it was made. First, so that a reader finds it without the rest.
    pub time: i64,
    /// All changes up to this version of the store are in it.
    pub store_version: u64,
    pub account: AccountId,
    pub region: Region,
    /// By key id.
    pub keys: BTreeMap<String, Key>,
    /// By `account/alias`.
    pub aliases: BTreeMap<String, Alias>,
    /// By `key id/grant id`.
    pub grants: BTreeMap<String, Grant>,
    pub accounts: BTreeMap<String, Account>,
    pub units: BTreeMap<String, Unit>,
    /// By `account/name`, as groups and roles.
    pub users: BTreeMap<String, User>,
    pub groups: BTreeMap<String, Group>,
    pub roles: BTreeMap<String, Role>,
    /// By ARN.
    pub policies: BTreeMap<String, ManagedPolicy>,
    pub access_keys: BTreeMap<String, AccessKey>,
    pub services: BTreeMap<String, Service>,
    pub oidc_providers: BTreeMap<String, OidcProvider>,
    pub key_stores: BTreeMap<String, KeyStore>,
    pub tokens: BTreeMap<String, Token>,
    /// What the running service knows of its tokens and their libraries; not followed between snapshots.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hsms: Vec<Hsm>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Key {
    pub id: KeyId,
    pub arn: String,
    pub account: AccountId,
    pub created: i64,
    pub description: String,
    pub spec: KeySpec,
    pub usage: KeyUsage,
    /// `AWS_KMS`, `AWS_CLOUDHSM`
    pub origin: String,
    /// KeyState.
    pub state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_date: Option<i64>,
    pub policy: PolicyDocument,
    pub policy_version: u64,
    pub tags: Vec<(String, String)>,
    /// The last is the current one.
    pub materials: Vec<Material>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_store: Option<KeyStoreId>,
    /// `generated`, `adopted`, `rotated`
    pub provenance: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated_from: Option<KeyId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed_by: Option<ServiceName>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Material {
    pub generation: u32,
    pub material_id: String,
    pub created: i64,
    /// Hex: of the material as the token told it; of key pairs SHA-256 of the public key.
    pub fingerprint: String,
    pub cka_id: String,
    pub cka_label: String,
    /// Attributes read back from the token.
    pub evidence: Value,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Alias {
    pub name: AliasName,
    pub account: AccountId,
    pub target: KeyId,
    pub created: i64,
    pub updated: i64,
    pub history: Vec<AliasStay>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AliasStay {
    pub key: KeyId,
    pub from: i64,
    pub until: i64,
    pub ended_by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    pub id: GrantId,
    pub key: KeyId,
    pub issuing_account: AccountId,
    pub grantee: GrantPrincipal,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retiring: Option<GrantPrincipal>,
    pub operations: Vec<GrantOperation>,
    #[serde(default)]
    pub constraints: GrantConstraints,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub created: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    pub id: AccountId,
    pub name: String,
    pub created: i64,
    pub root_enabled: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    pub service_control: Vec<PolicyArn>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unit {
    pub id: String,
    pub name: String,
    pub organization: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    pub service_control: Vec<PolicyArn>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    pub name: UserName,
    pub account: AccountId,
    pub user_id: String,
    pub created: i64,
    pub path: IamPath,
    pub tags: Vec<(String, String)>,
    pub groups: Vec<GroupName>,
    pub attached: Vec<PolicyArn>,
    pub inline: BTreeMap<PolicyName, PolicyDocument>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boundary: Option<PolicyArn>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    pub name: GroupName,
    pub account: AccountId,
    pub group_id: String,
    pub created: i64,
    pub path: IamPath,
    pub attached: Vec<PolicyArn>,
    pub inline: BTreeMap<PolicyName, PolicyDocument>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Role {
    pub name: RoleName,
    pub account: AccountId,
    pub role_id: String,
    pub created: i64,
    pub path: IamPath,
    pub description: String,
    pub trust: PolicyDocument,
    pub max_session_seconds: u32,
    pub tags: Vec<(String, String)>,
    pub attached: Vec<PolicyArn>,
    pub inline: BTreeMap<PolicyName, PolicyDocument>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boundary: Option<PolicyArn>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions_revoked_before: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManagedPolicy {
    pub arn: PolicyArn,
    pub policy_id: String,
    pub created: i64,
    pub updated: i64,
    pub description: String,
    pub document: PolicyDocument,
}

/// Without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccessKey {
    pub id: AccessKeyId,
    pub account: AccountId,
    /// `root`, `user/NAME`, `service/NAME`
    pub owner: String,
    pub active: bool,
    pub created: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    pub name: ServiceName,
    pub account: AccountId,
    pub service_id: String,
    pub created: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed_key: Option<String>,
    pub may_act_for: Vec<String>,
}

/// Without its keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OidcProvider {
    pub arn: String,
    pub account: AccountId,
    pub url: String,
    pub client_ids: Vec<String>,
    pub created: i64,
}

/// Without its password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyStore {
    pub id: KeyStoreId,
    pub account: AccountId,
    pub name: String,
    pub cluster: ClusterId,
    pub created: i64,
    /// `disconnected`, `wanted`, `failed CODE`
    pub connection: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Token {
    pub name: String,
    pub cluster: ClusterId,
    pub serial: String,
    pub first_seen: i64,
}

/// A connected token and the library in front of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hsm {
    /// Name in the configuration.
    pub name: String,
    pub library: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub library_sha256: Option<String>,
    pub slot: u64,
    pub label: String,
    pub serial: String,
    pub model: String,
    pub manufacturer: String,
    pub firmware: String,
    pub hardware: String,
}
