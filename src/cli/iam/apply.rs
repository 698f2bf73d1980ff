//! `iam apply`: a folder of AWS-format documents is made so, after the difference was shown; and `iam export`, which writes one.

mod difference;
mod export;
mod folder;
mod forms;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

pub use export::{ExportArguments, run as export};

use crate::cli::{Failed, USAGE, answer};
use crate::config::Config;
use crate::ids::AccountId;
use crate::ops::{IamApply, IamRequest, OperatorRequest, OperatorResponse};

#[derive(Args)]
pub struct ApplyArguments {
    /// Folder with policies/, users/, groups/, roles/ and so on, or the output of `aws iam
    /// get-account-authorization-details`.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Delete what is of a kind that the folder has and is not in it.
    #[arg(long)]
    prune: bool,
    /// Show the difference and change nothing.
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// With --dry-run: exit code 2 where there is a difference.
    #[arg(long, requires = "dry_run")]
    exit_code: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

/// Exit code of `--exit-code` where there is a difference.
const DIFFERENT: u8 = 2;

pub fn run(arguments: ApplyArguments, account: Option<AccountId>, json: bool, config: &Config) -> Result<u8, Failed> {
    let own = &config.server.locality.account;
    let desired = folder::read(&arguments.dir, account.as_ref().unwrap_or(own))?;
    let (dry_run, prune) = (arguments.dry_run, arguments.prune);
    let look = IamApply { desired, dry_run: true, prune, shown: None };
    let shown = report(config, look.clone())?;
    let changes = shown.get("Changes").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let told = |e: io::Error| Failed::new(74, e.to_string());
    let print = |report: &Value| writeln!(io::stdout(), "{report}").map_err(told);
    if !json {
        difference::show(&mut io::stdout().lock(), changes, own).map_err(told)?;
    }
    if dry_run || changes.is_empty() {
        if json {
            print(&shown)?;
        }
        return Ok(if arguments.exit_code && !changes.is_empty() { DIFFERENT } else { 0 });
    }
    // A script that wants it done says so: nobody would read the question.
    if !arguments.yes && !io::stdin().is_terminal() {
        return Err(Failed::new(USAGE, "nothing was changed: there is no terminal to ask on, say --yes"));
    }
    if !arguments.yes && !agreed().map_err(told)? {
        return Err(Failed::new(1, "not applied: nothing was changed"));
    }
    let digest = shown.get("Digest").and_then(Value::as_str).map(str::to_owned);
    let done = report(config, IamApply { dry_run: false, shown: digest, ..look })?;
    match json {
        true => print(&done)?,
        false => println!("applied"),
    }
    Ok(0)
}

fn report(config: &Config, request: IamApply) -> Result<Value, Failed> {
    match answer(config, OperatorRequest::Iam(IamRequest::Apply(Box::new(request))))? {
        OperatorResponse::Iam { report } => Ok(report),
        other => Err(Failed::new(70, format!("the answer to `iam apply` is not understood: {other:?}"))),
    }
}

fn agreed() -> Result<bool, io::Error> {
    print!("Apply? [y/N] ");
    io::stdout().flush()?;
    let mut word = String::new();
    io::stdin().read_line(&mut word)?;
    Ok(matches!(word.trim(), "y" | "Y" | "yes"))
}
