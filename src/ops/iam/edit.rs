//! Changes of one thing about one entity, as a person at a terminal asks for them. Each becomes, inside the transaction, what
//! the entity shall be, whole ([`IamChange`]): two edits at one time do not undo each other.

use serde::{Deserialize, Serialize};

use crate::ids::{AccountId, GroupName, IamPath, PolicyName, RoleName, ServiceName, UserName};
pub use crate::store::KeySource;

/// Policies are named by ARN, or by name where they are the account's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum IamEdit {
    CreateAccount {
        id: AccountId,
        name: String,
        unit: Option<String>,
    },
    DeleteAccount {
        id: AccountId,
    },
    /// `None`: out of the organisation.
    MoveAccount {
        id: AccountId,
        unit: Option<String>,
    },
    /// Without `parent`: the root of a new organisation. Ids that are not given are made.
    CreateUnit {
        id: Option<String>,
        name: String,
        parent: Option<String>,
        organization: Option<String>,
    },
    DeleteUnit {
        id: String,
    },
    CreateUser {
        name: UserName,
        path: IamPath,
        tags: Vec<(String, String)>,
        boundary: Option<String>,
    },
    DeleteUser {
        name: UserName,
    },
    CreateGroup {
        name: GroupName,
        path: IamPath,
    },
    DeleteGroup {
        name: GroupName,
    },
    CreateRole {
        name: RoleName,
        path: IamPath,
        description: String,
        trust: String,
        max_session_seconds: u32,
        tags: Vec<(String, String)>,
        boundary: Option<String>,
    },
    /// What is `None` stays.
    UpdateRole {
        name: RoleName,
        trust: Option<String>,
        description: Option<String>,
        max_session_seconds: Option<u32>,
    },
    DeleteRole {
        name: RoleName,
    },
    CreatePolicy {
        name: PolicyName,
        path: IamPath,
        description: String,
        document: String,
        service_control: bool,
    },
    UpdatePolicy {
        policy: String,
        document: Option<String>,
        description: Option<String>,
        service_control: bool,
    },
    DeletePolicy {
        policy: String,
        service_control: bool,
    },
    CreateOidcProvider {
        url: String,
        client_ids: Vec<String>,
        algorithms: Vec<String>,
        keys: KeySource,
    },
    /// By ARN or URL. What is `None` stays.
    UpdateOidcProvider {
        provider: String,
        client_ids: Option<Vec<String>>,
        algorithms: Option<Vec<String>>,
        keys: Option<KeySource>,
    },
    DeleteOidcProvider {
        provider: String,
    },
    RegisterService {
        name: ServiceName,
        managed_key: Option<String>,
        may_act_for: Vec<String>,
    },
    DeregisterService {
        name: ServiceName,
    },
    /// Replaces the values of keys that are there.
    Tag {
        of: IamIdentity,
        tags: Vec<(String, String)>,
    },
    Untag {
        of: IamIdentity,
        keys: Vec<String>,
    },
    AddToGroup {
        user: UserName,
        group: GroupName,
    },
    RemoveFromGroup {
        user: UserName,
        group: GroupName,
    },
    AttachPolicy {
        to: IamTarget,
        policy: String,
    },
    DetachPolicy {
        from: IamTarget,
        policy: String,
    },
    PutInlinePolicy {
        of: IamIdentity,
        name: PolicyName,
        document: String,
    },
    DeleteInlinePolicy {
        of: IamIdentity,
        name: PolicyName,
    },
    PutBoundary {
        of: IamIdentity,
        policy: String,
    },
    DeleteBoundary {
        of: IamIdentity,
    },
}

/// Whose policies and tags.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IamIdentity {
    User(UserName),
    Group(GroupName),
    Role(RoleName),
}

/// What a policy is attached to: organisation policies to accounts and units, all others to identities.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IamTarget {
    Identity(IamIdentity),
    Account(AccountId),
    Unit(String),
}
