//! `iam access-key …`, `iam session …` and `iam root …`.

use clap::{Args, Subcommand};

use super::Asked;
use crate::ids::{AccessKeyId, AccountId, ServiceName, UserName};
use crate::ops::{IamKind, IamRequest};

#[derive(Subcommand)]
pub enum AccessKeyCommand {
    /// A new access key; its secret is shown once.
    Create(AccessKeyOwner),
    /// The account's access keys with their last use, without secrets.
    List,
    /// Refuse it from the next request on.
    Disable { id: AccessKeyId },
    /// Take it again.
    Enable { id: AccessKeyId },
    /// For ever.
    Delete { id: AccessKeyId },
    /// When, for which service and in which Region it was used last, to 15 minutes.
    LastUsed { id: AccessKeyId },
}

#[derive(Args)]
#[group(required = true, multiple = false)]
pub struct AccessKeyOwner {
    #[arg(long, value_name = "NAME")]
    user: Option<UserName>,
    #[arg(long, value_name = "NAME")]
    service: Option<ServiceName>,
    /// The account's root user.
    #[arg(long)]
    root: bool,
}

#[derive(Subcommand)]
pub enum SessionCommand {
    /// Refuse temporary credentials from the next request on, by their access key id `ASIA…`.
    Revoke { id: AccessKeyId },
}

#[derive(Subcommand)]
pub enum RootCommand {
    /// Refuse root's access keys. Only once another administrator exists who has an access key.
    Disable,
    Enable,
    Status,
}

impl AccessKeyCommand {
    pub fn asked(self, account: &Option<AccountId>) -> Asked {
        Asked::Request(match self {
            Self::Create(AccessKeyOwner { user, service, .. }) => {
                IamRequest::AccessKeyCreate { account: account.clone(), user, service }
            }
            Self::List => return Asked::Show(IamKind::AccessKey, None),
            Self::LastUsed { id } => return Asked::Show(IamKind::AccessKey, Some(id.to_string())),
            Self::Disable { id } => IamRequest::AccessKeyUpdate { id, active: false },
            Self::Enable { id } => IamRequest::AccessKeyUpdate { id, active: true },
            Self::Delete { id } => IamRequest::AccessKeyDelete { id },
        })
    }
}

impl RootCommand {
    pub fn asked(self, account: &Option<AccountId>) -> Asked {
        Asked::Request(match self {
            Self::Disable => IamRequest::RootDisable { account: account.clone() },
            Self::Enable => IamRequest::RootEnable { account: account.clone() },
            Self::Status => IamRequest::RootStatus { account: account.clone() },
        })
    }
}
