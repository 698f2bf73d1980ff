//! `rotate …`: a new key behind an alias, and what becomes of the old ones.

use clap::{Args, Subcommand, ValueEnum};

use super::args::{key_id, key_spec};
use crate::ids::spec::KeySpec;
use crate::ids::{AccountId, AliasName, KeyId};
use crate::ops::{OperatorRequest, RotateGrants, RotateRetire};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct RotateCommand {
    /// The alias whose key is replaced by a new one with the same usage, policy, tags and description.
    #[arg(long, required = true, value_name = "ALIAS")]
    alias: Option<AliasName>,
    /// The account that the name is of; by default the deployment's.
    #[arg(long, value_name = "ID")]
    account: Option<AccountId>,
    /// KeySpec of the new key; by default the old one's.
    #[arg(long, value_name = "SPEC", value_parser = key_spec)]
    key_spec: Option<KeySpec>,
    /// Stands in the log.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Whether the new key gets the grants of the old one too. Needed where there are any.
    #[arg(long)]
    grants: Option<Grants>,
    /// Show what would happen, and do nothing.
    #[arg(long)]
    plan: bool,
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    command: Option<AfterRotation>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Grants {
    Carry,
    Leave,
}

#[derive(Subcommand)]
enum AfterRotation {
    /// The age of each alias's key, which are overdue, and who still uses keys that were rotated away.
    Report {
        /// Older keys are overdue; by default the configuration's `rotation.max_age_days`.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=36_500))]
        max_age_days: Option<u32>,
        #[arg(long)]
        json: bool,
    },
    /// Schedule the deletion of keys that were rotated away and are not used any more.
    Retire {
        #[arg(long, value_name = "ALIAS")]
        alias: AliasName,
        /// The account that the name is of; by default the deployment's.
        #[arg(long, value_name = "ID")]
        account: Option<AccountId>,
        /// Key id or key ARN; by default every key of the alias's history that nothing forbids.
        #[arg(long, value_name = "KEY", value_parser = key_id)]
        key: Option<KeyId>,
        /// Refuse keys used within this many days; by default the configuration's `rotation.retire_unused_days`.
        #[arg(long, value_name = "N")]
        unused_days: Option<u32>,
        /// Days until the deletion, in which it can be cancelled.
        #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(7..=30))]
        pending_window_in_days: u32,
        /// Retire keys that were used all the same. REASON stands in the log.
        #[arg(long, value_name = "REASON")]
        force: Option<String>,
        #[arg(long)]
        json: bool,
    },
}

impl RotateCommand {
    /// What is asked, and whether the answer shall be JSON.
    pub fn request(self) -> (OperatorRequest, bool) {
        match self.command {
            Some(AfterRotation::Report { max_age_days, json }) => {
                (OperatorRequest::RotateReport { max_age_days }, json)
            }
            Some(AfterRotation::Retire { alias, account, key, unused_days, pending_window_in_days, force, json }) => {
                let retire = RotateRetire { alias, account, key, unused_days, pending_window_in_days, force };
                (OperatorRequest::RotateRetire(retire), json)
            }
            None => {
                let alias = self.alias.expect("clap asks for --alias where there is no subcommand");
                let grants = self.grants.map(|grants| match grants {
                    Grants::Carry => RotateGrants::Carry,
                    Grants::Leave => RotateGrants::Leave,
                });
                let request = match self.plan {
                    true => {
                        OperatorRequest::RotatePlan { alias, account: self.account, key_spec: self.key_spec, grants }
                    }
                    false => OperatorRequest::Rotate {
                        alias,
                        account: self.account,
                        key_spec: self.key_spec,
                        reason: self.reason,
                        grants,
                    },
                };
                (request, self.json)
            }
        }
    }
}
