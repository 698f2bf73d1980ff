//! Identities: accounts, users, groups, roles, policies, organisation units, identity providers, services, and what
//! temporary credentials need.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{PolicyDocument, bytes_hex};
use crate::ids::{AccountId, GroupName, IamPath, PolicyArn, PolicyName, RoleName, ServiceName, UserName};

/// An account that this bridge serves. The deployment's own has one too once anything about it was changed; without one it
/// is known, in no organisation, and its root user may sign in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountRecord {
    pub id: AccountId,
    pub name: String,
    pub created: i64,
    /// The root user's access keys verify.
    pub root_enabled: bool,
    /// The organisation unit that it stands in; `None`: in no organisation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Organisation policies (SCPs) attached to the account itself.
    #[serde(default)]
    pub service_control: Vec<PolicyArn>,
}

/// A level of an organisation: its root (`r-…`) or an organisational unit (`ou-…`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnitRecord {
    pub id: String,
    pub name: String,
    /// `o-…`
    pub organization: String,
    /// `None`: the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Organisation policies attached here: at least one, as in AWS.
    pub service_control: Vec<PolicyArn>,
}

/// Policies of a user, a group or a role.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policies {
    pub attached: Vec<PolicyArn>,
    pub inline: BTreeMap<PolicyName, PolicyDocument>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserRecord {
    pub name: UserName,
    pub account: AccountId,
    /// `AIDA…`, never used again.
    pub user_id: String,
    pub created: i64,
    #[serde(default = "root_path")]
    pub path: IamPath,
    #[serde(default)]
    pub tags: Vec<(String, String)>,
    #[serde(default)]
    pub groups: Vec<GroupName>,
    #[serde(default)]
    pub policies: Policies,
    /// Permissions boundary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boundary: Option<PolicyArn>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupRecord {
    pub name: GroupName,
    pub account: AccountId,
    /// `AGPA…`
    pub group_id: String,
    pub created: i64,
    pub path: IamPath,
    pub policies: Policies,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleRecord {
    pub name: RoleName,
    pub account: AccountId,
    /// `AROA…`, never used again.
    pub role_id: String,
    pub created: i64,
    pub path: IamPath,
    pub description: String,
    pub trust: PolicyDocument,
    /// Longest session, seconds: 3,600 to 43,200.
    pub max_session_seconds: u32,
    pub tags: Vec<(String, String)>,
    pub policies: Policies,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boundary: Option<PolicyArn>,
    /// Sessions issued before this time are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions_revoked_before: Option<i64>,
}

/// A managed policy or an organisation policy: its ARN says which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyRecord {
    pub arn: PolicyArn,
    /// `ANPA…`, `p-…` for an organisation policy.
    pub policy_id: String,
    pub created: i64,
    pub updated: i64,
    pub description: String,
    pub document: PolicyDocument,
}

/// Where an identity provider's keys come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum KeySource {
    /// A JSON Web Key Set, kept here.
    Static { jwks: String },
    /// Fetched over https; `ca`: PEM of the only authority that is trusted for it, `None`: the system's.
    Fetched { url: String, ca: Option<String> },
}

/// An OpenID Connect provider of an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OidcProviderRecord {
    /// `arn:aws:iam::111122223333:oidc-provider/issuer.example/path`
    pub arn: String,
    pub account: AccountId,
    /// The issuer, exactly as `iss` has it.
    pub url: String,
    pub client_ids: Vec<String>,
    /// `RS256` and so on: what a token may be signed with.
    pub algorithms: Vec<String>,
    pub keys: KeySource,
    pub created: i64,
}

/// A registered service: it signs with its own access keys, as itself or on behalf of a caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceRecord {
    pub name: ServiceName,
    /// The account whose operator registered it.
    pub account: AccountId,
    /// `AIDA…`-like id of its own, `ASVC…`: the owner in the associated data of its secrets.
    pub service_id: String,
    pub created: i64,
    /// What stands behind `alias/aws/` for its AWS managed keys; `None`: it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed_key: Option<String>,
    /// Principal ARNs and account ids on whose behalf it may call; `*` inside an ARN is a wildcard.
    pub may_act_for: Vec<String>,
}

/// A key under which session tokens are sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionKeyRecord {
    /// Four random bytes, hex.
    pub id: String,
    pub created: i64,
    /// 32 bytes under the token key `hsm-bridge/iam-wrap`: IV (12 bytes) ‖ ciphertext ‖ tag.
    #[serde(with = "bytes_hex")]
    pub wrapped: Vec<u8>,
}

/// A session that was revoked before its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokedSessionRecord {
    /// The session's access key id, `ASIA…`.
    pub access_key: String,
    pub until: i64,
}

pub fn root_path() -> IamPath {
    "/".parse().expect("`/` is a path")
}
