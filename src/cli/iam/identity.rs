//! `iam user …`, `iam group …` and `iam role …`.

use std::path::PathBuf;

use clap::Subcommand;

use super::{Asked, document, maybe_document, tag};
use crate::cli::Failed;
use crate::ids::{GroupName, IamPath, PolicyName, RoleName, UserName};
use crate::ops::{IamEdit, IamIdentity, IamKind, IamTarget};

#[derive(Subcommand)]
pub enum UserCommand {
    /// A user without access keys and without policies.
    Create {
        name: UserName,
        #[arg(long, value_name = "PATH", default_value = "/")]
        path: IamPath,
        #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = tag)]
        tags: Vec<(String, String)>,
        /// Permissions boundary: ARN or name of a managed policy.
        #[arg(long, value_name = "POLICY")]
        boundary: Option<String>,
    },
    List,
    /// The user in AWS's form, with policies, groups and access keys.
    Show {
        name: UserName,
    },
    /// With its access keys, which are refused from the next request on. A user of the same name is another one.
    Delete {
        name: UserName,
    },
    /// Set tags.
    Tag {
        name: UserName,
        #[arg(required = true, value_name = "KEY=VALUE", value_parser = tag)]
        tags: Vec<(String, String)>,
    },
    Untag {
        name: UserName,
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
    },
    AddToGroup {
        name: UserName,
        group: GroupName,
    },
    RemoveFromGroup {
        name: UserName,
        group: GroupName,
    },
    /// Attach a managed policy.
    AttachPolicy {
        name: UserName,
        /// ARN, or name in the account.
        policy: String,
    },
    DetachPolicy {
        name: UserName,
        policy: String,
    },
    /// Set an inline policy.
    PutPolicy {
        name: UserName,
        policy_name: PolicyName,
        /// The document; `-` is standard input.
        #[arg(value_name = "FILE")]
        document: PathBuf,
    },
    /// Take an inline policy away.
    DeletePolicy {
        name: UserName,
        policy_name: PolicyName,
    },
    /// Set the permissions boundary.
    PutBoundary {
        name: UserName,
        /// ARN, or name in the account.
        policy: String,
    },
    DeleteBoundary {
        name: UserName,
    },
}

#[derive(Subcommand)]
pub enum GroupCommand {
    Create {
        name: GroupName,
        #[arg(long, value_name = "PATH", default_value = "/")]
        path: IamPath,
    },
    List,
    Show {
        name: GroupName,
    },
    /// Refused while it has members.
    Delete {
        name: GroupName,
    },
    /// Attach a managed policy.
    AttachPolicy {
        name: GroupName,
        /// ARN, or name in the account.
        policy: String,
    },
    DetachPolicy {
        name: GroupName,
        policy: String,
    },
    /// Set an inline policy.
    PutPolicy {
        name: GroupName,
        policy_name: PolicyName,
        /// The document; `-` is standard input.
        #[arg(value_name = "FILE")]
        document: PathBuf,
    },
    /// Take an inline policy away.
    DeletePolicy {
        name: GroupName,
        policy_name: PolicyName,
    },
}

#[derive(Subcommand)]
pub enum RoleCommand {
    Create {
        name: RoleName,
        /// Who may assume it; `-` is standard input.
        #[arg(long, value_name = "FILE")]
        trust_policy: PathBuf,
        #[arg(long, value_name = "PATH", default_value = "/")]
        path: IamPath,
        #[arg(long, value_name = "TEXT", default_value = "")]
        description: String,
        /// Longest session, 3600 to 43200 seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
        max_session: u32,
        #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = tag)]
        tags: Vec<(String, String)>,
        /// Permissions boundary: ARN or name of a managed policy.
        #[arg(long, value_name = "POLICY")]
        boundary: Option<String>,
    },
    /// What is not given stays.
    Update {
        name: RoleName,
        /// Who may assume it; `-` is standard input.
        #[arg(long, value_name = "FILE")]
        trust_policy: Option<PathBuf>,
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
        /// Longest session, 3600 to 43200 seconds.
        #[arg(long, value_name = "SECONDS")]
        max_session: Option<u32>,
    },
    List,
    Show {
        name: RoleName,
    },
    /// Its sessions are refused from the next request on. A role of the same name is another one.
    Delete {
        name: RoleName,
    },
    /// Refuse the role's sessions that exist now. New ones can be had.
    RevokeSessions {
        name: RoleName,
    },
    /// Set tags.
    Tag {
        name: RoleName,
        #[arg(required = true, value_name = "KEY=VALUE", value_parser = tag)]
        tags: Vec<(String, String)>,
    },
    Untag {
        name: RoleName,
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
    },
    /// Attach a managed policy.
    AttachPolicy {
        name: RoleName,
        /// ARN, or name in the account.
        policy: String,
    },
    DetachPolicy {
        name: RoleName,
        policy: String,
    },
    /// Set an inline policy.
    PutPolicy {
        name: RoleName,
        policy_name: PolicyName,
        /// The document; `-` is standard input.
        #[arg(value_name = "FILE")]
        document: PathBuf,
    },
    /// Take an inline policy away.
    DeletePolicy {
        name: RoleName,
        policy_name: PolicyName,
    },
    /// Set the permissions boundary.
    PutBoundary {
        name: RoleName,
        /// ARN, or name in the account.
        policy: String,
    },
    DeleteBoundary {
        name: RoleName,
    },
}

impl UserCommand {
    pub fn asked(self) -> Result<Asked, Failed> {
        let of = IamIdentity::User;
        Ok(Asked::Edit(match self {
            Self::List => return Ok(Asked::Show(IamKind::User, None)),
            Self::Show { name } => return Ok(Asked::Show(IamKind::User, Some(name.to_string()))),
            Self::Create { name, path, tags, boundary } => IamEdit::CreateUser { name, path, tags, boundary },
            Self::Delete { name } => IamEdit::DeleteUser { name },
            Self::Tag { name, tags } => IamEdit::Tag { of: of(name), tags },
            Self::Untag { name, keys } => IamEdit::Untag { of: of(name), keys },
            Self::AddToGroup { name, group } => IamEdit::AddToGroup { user: name, group },
            Self::RemoveFromGroup { name, group } => IamEdit::RemoveFromGroup { user: name, group },
            Self::AttachPolicy { name, policy } => attach(of(name), policy),
            Self::DetachPolicy { name, policy } => detach(of(name), policy),
            Self::PutPolicy { name, policy_name, document: file } => {
                IamEdit::PutInlinePolicy { of: of(name), name: policy_name, document: document(&file)? }
            }
            Self::DeletePolicy { name, policy_name } => IamEdit::DeleteInlinePolicy { of: of(name), name: policy_name },
            Self::PutBoundary { name, policy } => IamEdit::PutBoundary { of: of(name), policy },
            Self::DeleteBoundary { name } => IamEdit::DeleteBoundary { of: of(name) },
        }))
    }
}

impl GroupCommand {
    pub fn asked(self) -> Result<Asked, Failed> {
        let of = IamIdentity::Group;
        Ok(Asked::Edit(match self {
            Self::List => return Ok(Asked::Show(IamKind::Group, None)),
            Self::Show { name } => return Ok(Asked::Show(IamKind::Group, Some(name.to_string()))),
            Self::Create { name, path } => IamEdit::CreateGroup { name, path },
            Self::Delete { name } => IamEdit::DeleteGroup { name },
            Self::AttachPolicy { name, policy } => attach(of(name), policy),
            Self::DetachPolicy { name, policy } => detach(of(name), policy),
            Self::PutPolicy { name, policy_name, document: file } => {
                IamEdit::PutInlinePolicy { of: of(name), name: policy_name, document: document(&file)? }
            }
            Self::DeletePolicy { name, policy_name } => IamEdit::DeleteInlinePolicy { of: of(name), name: policy_name },
        }))
    }
}

impl RoleCommand {
    pub fn asked(self) -> Result<Asked, Failed> {
        let of = IamIdentity::Role;
        Ok(Asked::Edit(match self {
            Self::List => return Ok(Asked::Show(IamKind::Role, None)),
            Self::Show { name } => return Ok(Asked::Show(IamKind::Role, Some(name.to_string()))),
            Self::RevokeSessions { name } => return Ok(Asked::RevokeSessions(name)),
            Self::Create { name, trust_policy, path, description, max_session, tags, boundary } => {
                IamEdit::CreateRole {
                    name,
                    path,
                    description,
                    trust: document(&trust_policy)?,
                    max_session_seconds: max_session,
                    tags,
                    boundary,
                }
            }
            Self::Update { name, trust_policy, description, max_session } => IamEdit::UpdateRole {
                name,
                trust: maybe_document(trust_policy.as_deref())?,
                description,
                max_session_seconds: max_session,
            },
            Self::Delete { name } => IamEdit::DeleteRole { name },
            Self::Tag { name, tags } => IamEdit::Tag { of: of(name), tags },
            Self::Untag { name, keys } => IamEdit::Untag { of: of(name), keys },
            Self::AttachPolicy { name, policy } => attach(of(name), policy),
            Self::DetachPolicy { name, policy } => detach(of(name), policy),
            Self::PutPolicy { name, policy_name, document: file } => {
                IamEdit::PutInlinePolicy { of: of(name), name: policy_name, document: document(&file)? }
            }
            Self::DeletePolicy { name, policy_name } => IamEdit::DeleteInlinePolicy { of: of(name), name: policy_name },
            Self::PutBoundary { name, policy } => IamEdit::PutBoundary { of: of(name), policy },
            Self::DeleteBoundary { name } => IamEdit::DeleteBoundary { of: of(name) },
        }))
    }
}

fn attach(to: IamIdentity, policy: String) -> IamEdit {
    IamEdit::AttachPolicy { to: IamTarget::Identity(to), policy }
}

fn detach(from: IamIdentity, policy: String) -> IamEdit {
    IamEdit::DetachPolicy { from: IamTarget::Identity(from), policy }
}
