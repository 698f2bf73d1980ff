//! `key …`: keys made, looked at, adopted and attested.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::args::{key_spec, pair};
use super::{Failed, absolute};
use crate::ids::spec::{KeySpec, KeyUsage};
use crate::ids::{AccountId, AliasName, KeyStoreId};
use crate::ops::{KeyAdopt, KeyCreate, OperatorRequest};

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
        /// The account that the name is of; by default the deployment's.
        #[arg(long, value_name = "ID")]
        account: Option<AccountId>,
        #[arg(long)]
        json: bool,
    },
    /// Make a key with its alias and the console's key policy: administrators manage it, users use it.
    #[command(
        after_help = "The policy delegates to the account as well, so identity policies of the account can allow more. Administrators\n\
        cannot encrypt or decrypt, users cannot manage; users may make grants for registered services only.\n\nExample:\n  \
        hsm-bridge key create --alias alias/payments --tag team=payments --admins role/ops --users user/alice,role/app"
    )]
    Create(Box<CreateArguments>),
    /// Bring a key that is in the token already under KMS management.
    #[command(
        after_help = "Refused: extractable keys unless --allow-extractable, the bridge's own system keys, keys that may WRAP, \
        UNWRAP or DERIVE beside ENCRYPT or DECRYPT, keys adopted before, and ids that two keys have. Tools set more than \
        was asked for: look at the key with `pkcs11-tool -O --login` first.\n\nExample:\n  \
        hsm-bridge key adopt --id 4a01 --alias alias/signer"
    )]
    Adopt {
        /// The account whose key it will be; by default the deployment's.
        #[arg(long, value_name = "ID")]
        account: Option<AccountId>,
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
        /// The account that the name is of; by default the deployment's.
        #[arg(long, value_name = "ID")]
        account: Option<AccountId>,
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
pub struct CreateArguments {
    #[arg(long, value_name = "SPEC", default_value = "SYMMETRIC_DEFAULT", value_parser = key_spec)]
    key_spec: KeySpec,
    /// By default the one that goes with the key spec.
    #[arg(long, value_name = "USAGE", value_parser = key_usage)]
    key_usage: Option<KeyUsage>,
    #[arg(long, value_name = "TEXT", default_value = "")]
    description: String,
    /// A tag; may be given again.
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = pair)]
    tags: Vec<(String, String)>,
    /// Make this alias for it.
    #[arg(long, value_name = "ALIAS")]
    alias: Option<AliasName>,
    /// Who manages it: ARNs, or user/NAME and role/NAME of the account, with commas between them.
    #[arg(long, value_name = "WHO,…", value_delimiter = ',')]
    admins: Vec<String>,
    /// Who uses it: as --admins, and ids of other accounts.
    #[arg(long, value_name = "WHO,…", value_delimiter = ',')]
    users: Vec<String>,
    /// Administrators cannot schedule the key's deletion.
    #[arg(long)]
    no_admins_may_delete: bool,
    /// The account that the key is made in; by default the deployment's.
    #[arg(long, value_name = "ID")]
    account: Option<AccountId>,
    /// The custom key store that holds it; by default the default key store.
    #[arg(long, value_name = "CKS-ID")]
    key_store: Option<KeyStoreId>,
    #[arg(long)]
    json: bool,
}

impl From<CreateArguments> for KeyCreate {
    fn from(arguments: CreateArguments) -> Self {
        KeyCreate {
            account: arguments.account,
            key_spec: arguments.key_spec,
            key_usage: arguments.key_usage,
            description: arguments.description,
            tags: arguments.tags,
            alias: arguments.alias,
            admins: arguments.admins,
            users: arguments.users,
            admins_may_delete: !arguments.no_admins_may_delete,
            key_store: arguments.key_store,
        }
    }
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
            KeyCommand::Create(arguments) => {
                let json = arguments.json;
                (OperatorRequest::KeyCreate((*arguments).into()), json, None)
            }
            KeyCommand::List { json } => (OperatorRequest::KeyList, json, None),
            KeyCommand::Show { key, account, json } => (OperatorRequest::KeyShow { key, account }, json, None),
            KeyCommand::Adopt {
                account,
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
                let adopt = KeyAdopt {
                    account,
                    key_store,
                    id,
                    label,
                    usage,
                    description,
                    alias,
                    allow_extractable,
                    encryptions_so_far,
                };
                (OperatorRequest::KeyAdopt(adopt), json, None)
            }
            KeyCommand::Attest { key, account, out, json } => {
                (OperatorRequest::KeyAttest { key, account }, json, out.map(absolute).transpose()?)
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
