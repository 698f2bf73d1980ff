//! Changes of identities as values: what an entity shall be, whole. Every way of changing identities ends here, so that one
//! function checks them and a list of them is one transaction.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{AccountId, GroupName, IamPath, PolicyArn, PolicyName, RoleName, ServiceName, UserName};
pub use crate::store::KeySource;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum IamChange {
    PutAccount(AccountSpec),
    DeleteAccount {
        account: AccountId,
    },
    PutUnit(UnitSpec),
    DeleteUnit {
        id: String,
    },
    PutUser(UserSpec),
    /// With its access keys.
    DeleteUser {
        account: AccountId,
        name: UserName,
    },
    PutGroup(GroupSpec),
    DeleteGroup {
        account: AccountId,
        name: GroupName,
    },
    PutRole(RoleSpec),
    DeleteRole {
        account: AccountId,
        name: RoleName,
    },
    PutPolicy(PolicySpec),
    DeletePolicy {
        arn: PolicyArn,
    },
    PutOidcProvider(OidcProviderSpec),
    DeleteOidcProvider {
        arn: String,
    },
    PutService(ServiceSpec),
    /// With its access keys.
    DeleteService {
        name: ServiceName,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct AccountSpec {
    pub id: AccountId,
    pub name: String,
    /// The organisation unit that it stands in.
    #[serde(default)]
    pub unit: Option<String>,
    #[serde(default)]
    pub service_control: Vec<PolicyArn>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct UnitSpec {
    pub id: String,
    pub name: String,
    pub organization: String,
    #[serde(default)]
    pub parent: Option<String>,
    pub service_control: Vec<PolicyArn>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct UserSpec {
    pub account: AccountId,
    pub name: UserName,
    pub path: IamPath,
    #[serde(default)]
    pub tags: Vec<(String, String)>,
    #[serde(default)]
    pub groups: Vec<GroupName>,
    #[serde(default)]
    pub attached: Vec<PolicyArn>,
    /// Policy documents as text.
    #[serde(default)]
    pub inline: BTreeMap<PolicyName, String>,
    #[serde(default)]
    pub boundary: Option<PolicyArn>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct GroupSpec {
    pub account: AccountId,
    pub name: GroupName,
    pub path: IamPath,
    #[serde(default)]
    pub attached: Vec<PolicyArn>,
    #[serde(default)]
    pub inline: BTreeMap<PolicyName, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RoleSpec {
    pub account: AccountId,
    pub name: RoleName,
    pub path: IamPath,
    #[serde(default)]
    pub description: String,
    /// The trust policy.
    pub trust: String,
    /// 3,600 to 43,200.
    pub max_session_seconds: u32,
    #[serde(default)]
    pub tags: Vec<(String, String)>,
    #[serde(default)]
    pub attached: Vec<PolicyArn>,
    #[serde(default)]
    pub inline: BTreeMap<PolicyName, String>,
    #[serde(default)]
    pub boundary: Option<PolicyArn>,
}

/// A managed policy, or an organisation policy: the ARN says which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PolicySpec {
    pub arn: PolicyArn,
    #[serde(default)]
    pub description: String,
    pub document: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct OidcProviderSpec {
    pub account: AccountId,
    pub url: String,
    pub client_ids: Vec<String>,
    pub algorithms: Vec<String>,
    pub keys: KeySource,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ServiceSpec {
    pub name: ServiceName,
    pub account: AccountId,
    #[serde(default)]
    pub managed_key: Option<String>,
    pub may_act_for: Vec<String>,
}
