//! `key …`: keys looked at, adopted and attested.

use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::{Failed, absolute};
use crate::ids::spec::KeyUsage;
use crate::ids::{AliasName, KeyStoreId};
use crate::ops::{KeyAdopt, OperatorRequest};

#[derive(Subcommand)]
pub enum KeyCommand {
    /// All keys, a line each.
    List {
        #[arg(long)]
        json: bool,
    },
    /// One key: state, tags, policy, token objects and their attributes, encryption budget.
    Show {
        /// Key id, key ARN, alias name or alias ARN.
        key: String,
        #[arg(long)]
        json: bool,
    },
    /// Bring a key that is in the token already under KMS management.
    #[command(
        after_help = "Refused: extractable keys unless --allow-extractable, the bridge's own system keys, keys that may WRAP, \
        UNWRAP or DERIVE beside ENCRYPT or DECRYPT, keys adopted before, and ids that two keys have. Tools set more than \
        was asked for: look at the key with `pkcs11-tool -O --login` first.\n\nExample:\n  \
        hsm-bridge key adopt --id 4a01 --alias alias/signer"
    )]
    Adopt {
        /// The custom key store whose token has it; by default the default key store.
        #[arg(long, value_name = "CKS-ID")]
        key_store: Option<KeyStoreId>,
        /// Its CKA_ID, in hex.
        #[arg(long, value_name = "HEX", required_unless_present = "label", value_parser = hex_text)]
        id: Option<String>,
        /// Its CKA_LABEL; with --id both have to fit.
        #[arg(long, value_name = "LABEL")]
        label: Option<String>,
        /// KeyUsage, where the kind of key leaves a choice.
        #[arg(long, value_name = "USAGE", value_parser = key_usage)]
        usage: Option<KeyUsage>,
        #[arg(long, value_name = "TEXT", default_value = "")]
        description: String,
        /// Make this alias for it.
        #[arg(long, value_name = "ALIAS")]
        alias: Option<AliasName>,
        /// Take it although it can leave the token. Its attestation says so for ever.
        #[arg(long)]
        allow_extractable: bool,
        /// Encryptions done under it elsewhere; they count for its limit.
        #[arg(long, value_name = "N", default_value_t = 0)]
        encryptions_so_far: u64,
        #[arg(long)]
        json: bool,
    },
    /// A signed statement of what the token says of a key, and how the key came.
    #[command(
        after_help = "With --out: FILE is the statement exactly as signed, FILE.sig the signature, FILE.pem the public key.\n\
        Whether the public key is this instance's is for the reader to know."
    )]
    Attest {
        /// Key id, key ARN, alias name or alias ARN.
        key: String,
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        #[arg(long)]
        json: bool,
    },
}

/// A command's request, whether its answer shall be JSON, and the file that an attestation goes to.
pub struct KeyRequest {
    pub request: OperatorRequest,
    pub json: bool,
    pub out: Option<PathBuf>,
}

impl KeyCommand {
    pub fn request(self) -> Result<KeyRequest, Failed> {
        let (request, json, out) = match self {
            KeyCommand::List { json } => (OperatorRequest::KeyList, json, None),
            KeyCommand::Show { key, json } => (OperatorRequest::KeyShow { key }, json, None),
            KeyCommand::Adopt {
                key_store,
                id,
                label,
                usage,
                description,
                alias,
                allow_extractable,
                encryptions_so_far,
                json,
            } => {
                let adopt =
                    KeyAdopt { key_store, id, label, usage, description, alias, allow_extractable, encryptions_so_far };
                (OperatorRequest::KeyAdopt(adopt), json, None)
            }
            KeyCommand::Attest { key, out, json } => {
                (OperatorRequest::KeyAttest { key }, json, out.map(absolute).transpose()?)
            }
        };
        Ok(KeyRequest { request, json, out })
    }
}

/// Writes an attestation as three files that OpenSSL takes.
pub fn write_attestation(
    out: &Path,
    statement: &str,
    signature: &[u8],
    public_key: &str,
) -> Result<[PathBuf; 3], Failed> {
    let beside = |ending: &str| {
        let mut name = out.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    let paths = [out.to_owned(), beside(".sig"), beside(".pem")];
    for (path, bytes) in paths.iter().zip([statement.as_bytes(), signature, public_key.as_bytes()]) {
        std::fs::write(path, bytes).map_err(|e| Failed::new(74, format!("writing `{}`: {e}", path.display())))?;
    }
    Ok(paths)
}

fn hex_text(text: &str) -> Result<String, String> {
    match hex::decode(text) {
        Ok(bytes) if !bytes.is_empty() => Ok(hex::encode(bytes)),
        _ => Err("hex digits are wanted, two for each byte".to_owned()),
    }
}

fn key_usage(text: &str) -> Result<KeyUsage, String> {
    KeyUsage::from_wire(text).ok_or_else(|| "ENCRYPT_DECRYPT, SIGN_VERIFY or GENERATE_VERIFY_MAC is wanted".to_owned())
}
