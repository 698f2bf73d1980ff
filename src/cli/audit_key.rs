//! `audit key …`: the trail's own keys.

use std::io::Write;
use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

use super::{ConfigPath, Failed, answer, operate};
use crate::ops::{AuditKeyRequest, AuditKeyUse, OperatorRequest, OperatorResponse};

/// Longer than any chain of certificates.
const MAX_FILE: u64 = 64 * 1024;

#[derive(Clone, Copy, ValueEnum)]
pub enum Use {
    /// RSA: digest files and exports, which the stock AWS CLI verifies.
    Digest,
    /// ECDSA P-256: checkpoints.
    Checkpoint,
}

impl From<Use> for AuditKeyUse {
    fn from(key_use: Use) -> AuditKeyUse {
        match key_use {
            Use::Digest => AuditKeyUse::Digest,
            Use::Checkpoint => AuditKeyUse::Checkpoint,
        }
    }
}

#[derive(Subcommand)]
pub enum AuditKeyCommand {
    /// Every key that the trail ever had, with its certificate.
    Show {
        #[arg(long)]
        json: bool,
    },
    /// Print a certificate request (PKCS#10, PEM) for your own authority, signed by the key in the token.
    #[command(after_help = "Example:\n  hsm-bridge audit key csr --use digest > digest.csr")]
    Csr {
        #[arg(long = "use", value_enum, value_name = "USE")]
        key_use: Use,
        #[arg(long)]
        json: bool,
    },
    /// Take the certificate that your authority issued for the key that signs now.
    #[command(
        after_help = "FILE is PEM: the key's certificate first, then those of the authorities above it, as far as you have them."
    )]
    Install {
        #[arg(long = "use", value_enum, value_name = "USE")]
        key_use: Use,
        #[arg(long, value_name = "FILE")]
        certificate: PathBuf,
        #[arg(long)]
        json: bool,
    },
    /// Make a new key in the token; it signs from then on.
    #[command(
        after_help = "The last act of the old key is to sign the record that names the new one. Its private half is then\n\
        destroyed: nobody can sign for its time any more. Its public key and certificate stay in the list."
    )]
    Rotate {
        #[arg(long = "use", value_enum, value_name = "USE")]
        key_use: Use,
        /// Leave the old private key in the token.
        #[arg(long)]
        keep_old: bool,
        /// The old key is lost or was replaced, and cannot name its successor. TICKET stands in the log.
        #[arg(long, value_name = "TICKET")]
        lost: Option<String>,
        #[arg(long)]
        json: bool,
    },
}

impl AuditKeyCommand {
    pub fn run(self, config: &ConfigPath) -> Result<u8, Failed> {
        let ask = |request| OperatorRequest::AuditKey(request);
        match self {
            AuditKeyCommand::Show { json } => operate(&config.load()?, ask(AuditKeyRequest::Show), json),
            AuditKeyCommand::Csr { key_use, json } => {
                let request = ask(AuditKeyRequest::Csr { key_use: key_use.into() });
                if json {
                    return operate(&config.load()?, request, true);
                }
                match answer(&config.load()?, request)? {
                    OperatorResponse::AuditKeys { report } => print(report.get("csr").and_then(|csr| csr.as_str())),
                    _ => print(None),
                }
            }
            AuditKeyCommand::Install { key_use, certificate, json } => {
                let told = |why: String| Failed::new(66, format!("reading `{}`: {why}", certificate.display()));
                let length = std::fs::metadata(&certificate).map_err(|e| told(e.to_string()))?.len();
                if length > MAX_FILE {
                    return Err(told(format!("it is longer than {MAX_FILE} bytes")));
                }
                let text = std::fs::read_to_string(&certificate).map_err(|e| told(e.to_string()))?;
                let request = AuditKeyRequest::Install { key_use: key_use.into(), certificate: text };
                operate(&config.load()?, ask(request), json)
            }
            AuditKeyCommand::Rotate { key_use, keep_old, lost, json } => {
                let request = AuditKeyRequest::Rotate { key_use: key_use.into(), keep_old, lost };
                operate(&config.load()?, ask(request), json)
            }
        }
    }
}

fn print(csr: Option<&str>) -> Result<u8, Failed> {
    let csr = csr.ok_or_else(|| Failed::new(1, "the answer has no certificate request"))?;
    std::io::stdout().lock().write_all(csr.as_bytes()).map_err(|e| Failed::new(74, e.to_string()))?;
    Ok(0)
}
