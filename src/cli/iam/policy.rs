//! `iam policy …`.

use std::path::PathBuf;

use clap::Subcommand;

use super::{Asked, document, maybe_document};
use crate::cli::Failed;
use crate::ids::{IamPath, PolicyName};
use crate::ops::{IamEdit, IamKind};

#[derive(Subcommand)]
pub enum PolicyCommand {
    Create {
        name: PolicyName,
        /// The document; `-` is standard input.
        #[arg(value_name = "FILE")]
        document: PathBuf,
        #[arg(long, value_name = "PATH", default_value = "/")]
        path: IamPath,
        #[arg(long, value_name = "TEXT", default_value = "")]
        description: String,
        /// An organisation policy (SCP), for units and accounts.
        #[arg(long)]
        service_control: bool,
    },
    /// What is not given stays. It holds for everybody who has the policy, from the next request on.
    Update {
        /// ARN, or name in the account.
        policy: String,
        /// The document; `-` is standard input.
        #[arg(value_name = "FILE")]
        document: Option<PathBuf>,
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
        /// POLICY is the name of an organisation policy.
        #[arg(long)]
        service_control: bool,
    },
    /// Managed and organisation policies of the account, and the built-in ones.
    List,
    /// With its document, and to what it is attached.
    Show {
        /// ARN, or name in the account.
        policy: String,
    },
    /// Refused while it is attached to anything or is a boundary.
    Delete {
        /// ARN, or name in the account.
        policy: String,
        /// POLICY is the name of an organisation policy.
        #[arg(long)]
        service_control: bool,
    },
}

impl PolicyCommand {
    pub fn asked(self) -> Result<Asked, Failed> {
        Ok(Asked::Edit(match self {
            Self::List => return Ok(Asked::Show(IamKind::Policy, None)),
            Self::Show { policy } => return Ok(Asked::Show(IamKind::Policy, Some(policy))),
            Self::Create { name, document: file, path, description, service_control } => {
                IamEdit::CreatePolicy { name, path, description, document: document(&file)?, service_control }
            }
            Self::Update { policy, document: file, description, service_control } => IamEdit::UpdatePolicy {
                policy,
                document: maybe_document(file.as_deref())?,
                description,
                service_control,
            },
            Self::Delete { policy, service_control } => IamEdit::DeletePolicy { policy, service_control },
        }))
    }
}
