//! `policy test`: decision cases against the evaluator. Needs no server, lock, token or configuration.

use std::path::PathBuf;

use clap::Subcommand;

use super::Failed;
use crate::authz::cases;

#[derive(Subcommand)]
pub enum PolicyCommand {
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
    pub fn run(self) -> Result<u8, Failed> {
        match self {
            PolicyCommand::Test { files } => Ok(test(&files)),
        }
    }
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
