//! `alias …`: where aliases point, and what they meant before.

use clap::{Args, Subcommand};

use super::args::key_id;
use crate::ids::{AccountId, AliasName, KeyId};
use crate::ops::OperatorRequest;

#[derive(Subcommand)]
pub enum AliasCommand {
    /// All aliases, a line each.
    List {
        #[arg(long)]
        json: bool,
    },
    /// The keys that an alias pointed to, oldest first. `drop` takes one out of what Decrypt by the alias accepts.
    History(HistoryCommand),
}

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct HistoryCommand {
    /// `alias/…`
    #[arg(required = true, value_name = "ALIAS")]
    alias: Option<AliasName>,
    /// The account that the name is of; by default the deployment's.
    #[arg(long, value_name = "ID")]
    account: Option<AccountId>,
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    drop: Option<HistoryChange>,
}

#[derive(Subcommand)]
enum HistoryChange {
    /// From now on Decrypt by this alias refuses the key. The entry stays to be seen.
    Drop {
        #[arg(long, value_name = "ALIAS")]
        alias: AliasName,
        /// The account that the name is of; by default the deployment's.
        #[arg(long, value_name = "ID")]
        account: Option<AccountId>,
        /// Key id or key ARN.
        #[arg(long, value_name = "KEY", value_parser = key_id)]
        key: KeyId,
        #[arg(long)]
        json: bool,
    },
}

impl AliasCommand {
    /// What is asked, and whether the answer shall be JSON.
    pub fn request(self) -> (OperatorRequest, bool) {
        match self {
            AliasCommand::List { json } => (OperatorRequest::AliasList, json),
            AliasCommand::History(HistoryCommand {
                drop: Some(HistoryChange::Drop { alias, account, key, json }),
                ..
            }) => (OperatorRequest::AliasHistoryDrop { alias, account, key }, json),
            AliasCommand::History(HistoryCommand { alias, account, json, drop: None }) => {
                let alias = alias.expect("clap asks for ALIAS where there is no subcommand");
                (OperatorRequest::AliasHistory { alias, account }, json)
            }
        }
    }
}
