//! Identities: accounts, users, groups, roles, policies, organisation units, identity providers, services. Changed by the
//! operator (`hsm-bridge iam …`), one at a time or as a whole folder.

pub mod change;
pub mod edit;

use serde::{Deserialize, Serialize};

pub use change::*;
pub use edit::*;

use crate::authn::Caller;
use crate::ids::{AccessKeyId, AccountId, RoleName, ServiceName, UserName};
use crate::ops::{Context, Effects, OpError, OperatorResponse, Ops, Resolved};

/// What `hsm-bridge iam …` asks.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "iam", rename_all = "kebab-case", deny_unknown_fields)]
pub enum IamRequest {
    /// All of the changes, or none. `dry_run`: only what they would do.
    Change {
        changes: Vec<IamChange>,
        dry_run: bool,
    },
    /// One thing about one entity; the account is the deployment's own where none is named.
    Edit {
        account: Option<AccountId>,
        edit: Box<IamEdit>,
    },
    /// One entity, or all of a kind: as AWS-format JSON.
    Show {
        what: IamQuery,
    },
    /// A new access key of a user or a service: two at most.
    AccessKeyCreate {
        account: Option<AccountId>,
        user: Option<UserName>,
        service: Option<ServiceName>,
    },
    AccessKeyUpdate {
        id: AccessKeyId,
        active: bool,
    },
    AccessKeyDelete {
        id: AccessKeyId,
    },
    RootDisable {
        account: Option<AccountId>,
    },
    RootEnable {
        account: Option<AccountId>,
    },
    RootStatus {
        account: Option<AccountId>,
    },
    /// Sessions of the role that were issued before now are refused from now on.
    RoleRevokeSessions {
        account: Option<AccountId>,
        role: RoleName,
    },
    /// One session, by its access key id.
    SessionRevoke {
        access_key: AccessKeyId,
    },
    /// A folder of AWS-format documents, read by the command line: what they say shall be so.
    Apply {
        desired: serde_json::Value,
        dry_run: bool,
        prune: bool,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct IamQuery {
    pub kind: IamKind,
    pub account: Option<AccountId>,
    /// Name, ARN or id, as the kind has it; `None`: all.
    pub name: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum IamKind {
    Account,
    Unit,
    User,
    Group,
    Role,
    Policy,
    OidcProvider,
    Service,
    AccessKey,
}

impl IamRequest {
    /// The name in `operator.allow`.
    pub fn permission(&self) -> &'static str {
        match self {
            IamRequest::Show { what: IamQuery { kind: IamKind::AccessKey, .. } } => "access-key:list",
            IamRequest::Show { .. } | IamRequest::RootStatus { .. } => "iam:read",
            IamRequest::Change { dry_run: true, .. } | IamRequest::Apply { dry_run: true, .. } => "iam:read",
            IamRequest::AccessKeyCreate { .. } | IamRequest::AccessKeyUpdate { active: true, .. } => {
                "access-key:create"
            }
            IamRequest::AccessKeyUpdate { active: false, .. } | IamRequest::AccessKeyDelete { .. } => {
                "access-key:disable"
            }
            IamRequest::RootDisable { .. } | IamRequest::RootEnable { .. } => "iam:root",
            IamRequest::Change { .. }
            | IamRequest::Edit { .. }
            | IamRequest::RoleRevokeSessions { .. }
            | IamRequest::SessionRevoke { .. }
            | IamRequest::Apply { .. } => "iam:change",
        }
    }

    /// `eventName` of the audit record.
    pub fn name(&self) -> &'static str {
        match self {
            IamRequest::Change { .. } => "IamChange",
            IamRequest::Edit { .. } => "IamChange",
            IamRequest::Show { .. } => "IamShow",
            IamRequest::RootStatus { .. } => "RootStatus",
            IamRequest::AccessKeyCreate { .. } => "AccessKeyCreate",
            IamRequest::AccessKeyUpdate { .. } => "AccessKeyUpdate",
            IamRequest::AccessKeyDelete { .. } => "AccessKeyDelete",
            IamRequest::RootDisable { .. } => "RootDisable",
            IamRequest::RootEnable { .. } => "RootEnable",
            IamRequest::RoleRevokeSessions { .. } => "RoleRevokeSessions",
            IamRequest::SessionRevoke { .. } => "SessionRevoke",
            IamRequest::Apply { .. } => "IamApply",
        }
    }

    pub fn changes(&self) -> bool {
        !matches!(self.permission(), "iam:read" | "access-key:list")
    }
}

impl Ops {
    pub(super) async fn iam(
        &self,
        _request: &IamRequest,
        _caller: &Caller,
        _resolved: &Resolved,
        _ctx: &Context,
        _effects: &mut Effects,
    ) -> Result<OperatorResponse, OpError> {
        Err(OpError::Unsupported("iam: not built".to_owned()))
    }
}
