//! `iam account …` and `iam unit …`.

use clap::Subcommand;

use super::Asked;
use crate::ids::AccountId;
use crate::ops::{IamEdit, IamKind, IamTarget};

#[derive(Subcommand)]
pub enum AccountCommand {
    /// Serve one more account. Its root user is disabled and has no access key.
    Create {
        /// Twelve digits.
        #[arg(value_name = "ID")]
        id: AccountId,
        #[arg(long, value_name = "TEXT")]
        name: String,
        /// Where it stands in an organisation: `r-…` or `ou-…`.
        #[arg(long, value_name = "UNIT")]
        unit: Option<String>,
    },
    List,
    Show {
        #[arg(value_name = "ID")]
        id: AccountId,
    },
    /// Refused while the account has identities, access keys, keys, aliases or key stores.
    Delete {
        #[arg(value_name = "ID")]
        id: AccountId,
    },
    /// Put it elsewhere in the organisation.
    Move {
        #[arg(value_name = "ID")]
        id: AccountId,
        #[arg(long, value_name = "UNIT", required_unless_present = "out")]
        unit: Option<String>,
        /// Out of the organisation: no organisation policy holds any more.
        #[arg(long, conflicts_with = "unit")]
        out: bool,
    },
    /// Attach an organisation policy (SCP).
    AttachPolicy {
        #[arg(value_name = "ID")]
        id: AccountId,
        /// ARN, or name in the account.
        #[arg(value_name = "POLICY")]
        policy: String,
    },
    /// Take an organisation policy (SCP) away; one has to stay.
    DetachPolicy {
        #[arg(value_name = "ID")]
        id: AccountId,
        #[arg(value_name = "POLICY")]
        policy: String,
    },
}

#[derive(Subcommand)]
pub enum UnitCommand {
    /// A new organisational unit; without --parent the root of a new organisation.
    Create {
        #[arg(value_name = "NAME")]
        name: String,
        #[arg(long, value_name = "UNIT")]
        parent: Option<String>,
        /// `r-…` or `ou-…`; made if it is not given.
        #[arg(long, value_name = "UNIT")]
        id: Option<String>,
        /// `o-…` of a new organisation; made if it is not given.
        #[arg(long, value_name = "ID", conflicts_with = "parent")]
        organization: Option<String>,
    },
    List,
    Show {
        #[arg(value_name = "UNIT")]
        id: String,
    },
    /// Refused while anything stands in it.
    Delete {
        #[arg(value_name = "UNIT")]
        id: String,
    },
    /// Attach an organisation policy (SCP).
    AttachPolicy {
        #[arg(value_name = "UNIT")]
        id: String,
        /// ARN, or name in the account.
        #[arg(value_name = "POLICY")]
        policy: String,
    },
    /// Take an organisation policy (SCP) away; one has to stay.
    DetachPolicy {
        #[arg(value_name = "UNIT")]
        id: String,
        #[arg(value_name = "POLICY")]
        policy: String,
    },
}

impl AccountCommand {
    pub fn asked(self) -> Asked {
        let edit = match self {
            Self::List => return Asked::Show(IamKind::Account, None),
            Self::Show { id } => return Asked::Show(IamKind::Account, Some(id.to_string())),
            Self::Create { id, name, unit } => IamEdit::CreateAccount { id, name, unit },
            Self::Delete { id } => IamEdit::DeleteAccount { id },
            Self::Move { id, unit, .. } => IamEdit::MoveAccount { id, unit },
            Self::AttachPolicy { id, policy } => IamEdit::AttachPolicy { to: IamTarget::Account(id), policy },
            Self::DetachPolicy { id, policy } => IamEdit::DetachPolicy { from: IamTarget::Account(id), policy },
        };
        Asked::Edit(edit)
    }
}

impl UnitCommand {
    pub fn asked(self) -> Asked {
        let edit = match self {
            Self::List => return Asked::Show(IamKind::Unit, None),
            Self::Show { id } => return Asked::Show(IamKind::Unit, Some(id)),
            Self::Create { name, parent, id, organization } => IamEdit::CreateUnit { id, name, parent, organization },
            Self::Delete { id } => IamEdit::DeleteUnit { id },
            Self::AttachPolicy { id, policy } => IamEdit::AttachPolicy { to: IamTarget::Unit(id), policy },
            Self::DetachPolicy { id, policy } => IamEdit::DetachPolicy { from: IamTarget::Unit(id), policy },
        };
        Asked::Edit(edit)
    }
}
