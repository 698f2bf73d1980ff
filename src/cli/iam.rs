//! `iam …`: accounts, users, groups, roles, policies, access keys. Policy documents come from files or standard input.

mod access_key;
mod apply;
mod identity;
mod organization;
mod policy;
mod provider;

use std::io::Read;
use std::path::Path;

use clap::{Args, Subcommand};

use super::{Failed, operate};
use crate::config::Config;
use crate::ids::AccountId;
use crate::ops::{IamEdit, IamKind, IamQuery, IamRequest, OperatorRequest};
use access_key::{AccessKeyCommand, RootCommand, SessionCommand};
use identity::{GroupCommand, RoleCommand, UserCommand};
use organization::{AccountCommand, UnitCommand};
use policy::PolicyCommand;
use provider::{OidcProviderCommand, ServiceCommand};

/// A policy document is far smaller.
const LONGEST_DOCUMENT: u64 = 1 << 20;

#[derive(Args)]
pub struct IamArguments {
    /// The account; by default the deployment's own.
    #[arg(long, global = true, value_name = "ID")]
    account: Option<AccountId>,
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: IamCommand,
}

#[derive(Subcommand)]
pub enum IamCommand {
    /// The accounts that this bridge serves.
    #[command(subcommand)]
    Account(AccountCommand),
    /// Organisations: their roots and organisational units, and the organisation policies (SCPs) on them.
    #[command(subcommand)]
    Unit(UnitCommand),
    /// Users of an account.
    #[command(subcommand)]
    User(Box<UserCommand>),
    /// Groups of users: they pass policies on and are never principals.
    #[command(subcommand)]
    Group(GroupCommand),
    /// Roles: who may assume them, and what they may then do.
    #[command(subcommand)]
    Role(Box<RoleCommand>),
    /// Managed policies, and organisation policies with --service-control.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// OpenID Connect providers whose tokens AssumeRoleWithWebIdentity takes.
    #[command(subcommand)]
    OidcProvider(OidcProviderCommand),
    /// Services that call with credentials of their own, for themselves or on behalf of a caller.
    #[command(subcommand)]
    Service(ServiceCommand),
    /// Access keys of users, services and root users: two each at most.
    #[command(subcommand)]
    AccessKey(AccessKeyCommand),
    /// Temporary credentials.
    #[command(subcommand)]
    Session(SessionCommand),
    /// The root user of an account.
    #[command(subcommand)]
    Root(RootCommand),
    /// Make it so as a folder of AWS-format documents says: shows the difference, then changes all or nothing.
    Apply(apply::ApplyArguments),
    /// Write all identities into a folder as `iam apply` reads it.
    Export(apply::ExportArguments),
}

impl IamArguments {
    pub fn run(self, config: &Config) -> Result<u8, Failed> {
        let asked = match self.command {
            IamCommand::Apply(arguments) => return apply::run(arguments, self.account, self.json, config),
            IamCommand::Export(arguments) => return apply::export(&arguments, self.json, config),
            IamCommand::Account(command) => command.asked(),
            IamCommand::Unit(command) => command.asked(),
            IamCommand::User(command) => command.asked()?,
            IamCommand::Group(command) => command.asked()?,
            IamCommand::Role(command) => command.asked()?,
            IamCommand::Policy(command) => command.asked()?,
            IamCommand::OidcProvider(command) => command.asked()?,
            IamCommand::Service(command) => command.asked(),
            IamCommand::AccessKey(command) => command.asked(&self.account),
            IamCommand::Session(SessionCommand::Revoke { id }) => {
                Asked::Request(IamRequest::SessionRevoke { access_key: id })
            }
            IamCommand::Root(command) => command.asked(&self.account),
        };
        let request = match asked {
            Asked::Edit(edit) => IamRequest::Edit { account: self.account, edit: Box::new(edit) },
            Asked::Show(kind, name) => IamRequest::Show { what: IamQuery { kind, account: self.account, name } },
            Asked::RevokeSessions(role) => IamRequest::RoleRevokeSessions { account: self.account, role },
            Asked::Request(request) => request,
        };
        operate(config, OperatorRequest::Iam(request), self.json)
    }
}

/// A command without its account.
pub enum Asked {
    Edit(IamEdit),
    Show(IamKind, Option<String>),
    RevokeSessions(crate::ids::RoleName),
    Request(IamRequest),
}

/// `-` is standard input.
fn document(path: &Path) -> Result<String, Failed> {
    let told = |e: std::io::Error| Failed::new(74, format!("reading `{}`: {e}", path.display()));
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().take(LONGEST_DOCUMENT + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(LONGEST_DOCUMENT + 1).read_to_string(&mut text))
    };
    match read.map_err(told)? as u64 {
        length if length > LONGEST_DOCUMENT => {
            Err(Failed::new(1, format!("`{}` is longer than {LONGEST_DOCUMENT} bytes", path.display())))
        }
        _ => Ok(text),
    }
}

fn maybe_document(path: Option<&Path>) -> Result<Option<String>, Failed> {
    path.map(document).transpose()
}

fn tag(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as KEY=VALUE".to_owned()),
    }
}
