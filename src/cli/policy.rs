//! `policy simulate`: why a request would be allowed or denied. `policy test`: decision cases against the evaluator, which
//! needs no server, lock, token or configuration.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::args::{context_pair, pair};
use super::{ConfigPath, Failed, answer, show};
use crate::authz::cases;
use crate::ids::AccountId;
use crate::ops::{OperatorRequest, OperatorResponse, PolicySimulate};

#[derive(Subcommand)]
pub enum PolicyCommand {
    /// Say whether a request would be allowed, by which statement, and what every policy has to say about it.
    #[command(
        after_help = "The decision is that of a request at this moment, over TLS. Whether the key's state and usage allow the operation is\n\
        not asked. Exit code 0 once answered; with --exit-code 1 when the answer is no.\n\nExample:\n  \
        hsm-bridge policy simulate --principal user/alice --action kms:Decrypt --key alias/payments --context app=orders"
    )]
    Simulate(Box<SimulateArguments>),
    /// Run decision cases: who asks, which policies there are, and what the decision must be.
    #[command(
        after_help = "Prints each case that failed, and at last `N passed, M failed`. Exit code 1 when one failed or a file \
        cannot\nbe read. docs/policies.md has the format.\n\nExample:\n  hsm-bridge policy test decisions/*.json"
    )]
    Test {
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

impl PolicyCommand {
    pub fn run(self, config: &ConfigPath) -> Result<u8, Failed> {
        match self {
            PolicyCommand::Simulate(arguments) => simulate(*arguments, config),
            PolicyCommand::Test { files } => Ok(test(&files)),
        }
    }
}

#[derive(Args)]
pub struct SimulateArguments {
    /// Who asks: the ARN of a user, role, role session, federated user or root user, user/NAME, role/NAME, an account id, or a
    /// registered service's name.
    #[arg(long, value_name = "ARN")]
    principal: String,
    /// kms:Decrypt and so on; ReEncrypt has kms:ReEncryptFrom and kms:ReEncryptTo.
    #[arg(long, value_name = "ACTION")]
    action: String,
    /// Key id, key ARN, alias name or alias ARN, as the principal would name it.
    #[arg(long)]
    key: Option<String>,
    /// A pair of the encryption context; may be given again.
    #[arg(long, value_name = "KEY=VALUE", value_parser = context_pair)]
    context: Vec<(String, String)>,
    /// A condition key, aws:SourceIp=192.0.2.1 for example; given again it has several values.
    #[arg(long = "condition-key", value_name = "NAME=VALUE", value_parser = pair)]
    condition_keys: Vec<(String, String)>,
    /// The session policy of a role session or federated user.
    #[arg(long, value_name = "FILE")]
    session_policy: Option<PathBuf>,
    /// Of a federated user: the user that called GetFederationToken.
    #[arg(long, value_name = "USER")]
    federated_by: Option<String>,
    /// The account that names without one are of; by default the deployment's.
    #[arg(long, value_name = "ID")]
    account: Option<AccountId>,
    /// Exit with 1 when the answer is no.
    #[arg(long)]
    exit_code: bool,
    #[arg(long)]
    json: bool,
}

fn simulate(arguments: SimulateArguments, config: &ConfigPath) -> Result<u8, Failed> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).map_err(|e| Failed::new(74, format!("reading `{}`: {e}", path.display())))
    };
    let request = PolicySimulate {
        principal: arguments.principal,
        action: arguments.action,
        key: arguments.key,
        context: arguments.context,
        condition_keys: arguments.condition_keys,
        session_policy: arguments.session_policy.as_deref().map(read).transpose()?,
        federated_by: arguments.federated_by,
        account: arguments.account,
    };
    let response = answer(&config.load()?, OperatorRequest::PolicySimulate(request))?;
    show::response(&response, arguments.json).map_err(|e| Failed::new(74, e.to_string()))?;
    let denied = match &response {
        OperatorResponse::Simulation { report } => report.get("allowed") != Some(&true.into()),
        _ => true,
    };
    Ok(u8::from(denied && arguments.exit_code))
}

fn test(files: &[PathBuf]) -> u8 {
    let (mut passed, mut failed) = (0, 0);
    for file in files {
        let text = std::fs::read_to_string(file).map_err(|e| e.to_string());
        match text.and_then(|text| cases::run(&text)) {
            Ok(report) => {
                passed += report.passed;
                failed += report.failures.len();
                for failure in report.failures {
                    println!("{}: {} {}\n{}", file.display(), failure.id, failure.title, failure.why);
                }
            }
            Err(error) => {
                failed += 1;
                println!("{}: {error}", file.display());
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    u8::from(failed > 0)
}
