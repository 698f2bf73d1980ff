//! The arguments as clap sees them, with their help texts.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::alias::AliasCommand;
use super::audit_key::AuditKeyCommand;
use super::iam::IamArguments;
use super::key::KeyCommand;
use super::policy::PolicyCommand;
use super::rotate::RotateCommand;
use super::token::TokenCommand;
use crate::config::DecryptAliasMode;
use crate::ids::spec::KeySpec;
use crate::ids::{AccessKeyId, AccountId, AliasName, KeyId, Region, UserName};

const AFTER: &str = "\
Exit codes: 0 done; 1 refused or failed; 2 records of the audit log that were signed are missing; 64 wrong usage; 69 token
or address not available; 71 calls of the token's library hang: start again; 74 log or file cannot be written; 75 another process serves this directory; 77 the token refuses the PIN; 78 the configuration is not valid.

Examples:
  hsm-bridge dev --env-file dev.env          try it: a SoftHSM token, keys and credentials in one place
  hsm-bridge --config bridge.toml init --module /usr/lib/softhsm/libsofthsm2.so --token-label prod --pin-file pin
  hsm-bridge --config bridge.toml serve
  hsm-bridge --config bridge.toml key list
  hsm-bridge --config bridge.toml rotate --alias alias/payments --plan";

/// AWS KMS for clients, PKCS#11 for the token: customer master keys stay in your HSM.
#[derive(Parser)]
#[command(name = "hsm-bridge", version, after_help = AFTER)]
pub struct Arguments {
    /// The configuration file.
    #[arg(long, global = true, env = "HSM_BRIDGE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Make an instance: system keys in an initialised token, a store, the account and root's first access key.
    #[command(
        after_help = "Writes the configuration where --config points if there is none yet, and refuses where a store exists.\n\
        The secret of the access key is shown once.\n\nExample:\n  hsm-bridge --config /etc/hsm-bridge/bridge.toml init \\\n    \
        --module /usr/lib/softhsm/libsofthsm2.so --token-label prod --pin-file /etc/hsm-bridge/pin \\\n    \
        --state-dir /var/lib/hsm-bridge --account 111122223333 --region eu-central-1"
    )]
    Init(Box<InitOptions>),
    /// Serve until SIGTERM. SIGHUP reads certificates again and closes the audit segment, SIGUSR1 changes the log level.
    Serve {
        /// Start although the store is older than the audit log says; TICKET stands in the log.
        #[arg(long, value_name = "TICKET")]
        accept_store_rollback: Option<String>,
        /// Start although records of the audit log that were signed are missing, or are others; TICKET stands in the log.
        #[arg(long, value_name = "TICKET")]
        accept_loss: Option<String>,
    },
    /// The process that holds a token; the service starts it.
    #[command(hide = true)]
    TokenWorker {
        #[arg(long, default_value = "info", value_parser = ["error", "warn", "info", "debug", "trace"])]
        log_level: String,
        #[arg(long, default_value = "text", value_parser = ["text", "json"])]
        log_format: String,
    },
    /// A self-contained instance for trying things out. Not for production.
    #[command(
        after_help = "Once ready it prints shell exports (AWS_ENDPOINT_URL, credentials, paths) and writes them to --env-file.\n\
        The same --dir keeps everything and gives the same credentials.\n\nExample:\n  \
        hsm-bridge dev --env-file dev.env & sleep 2; . ./dev.env; aws kms create-key"
    )]
    Dev(DevArguments),
    /// Print what the token is and can do, and how token and store agree. Paste it in bug reports: it holds no secret.
    Doctor {
        #[arg(long)]
        json: bool,
    },
    /// See, compare and change tokens.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Make, look at, adopt and attest keys.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Ask what policies decide, and test it.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// See where aliases point and pointed.
    #[command(subcommand)]
    Alias(AliasCommand),
    /// Put a new key behind an alias; report on and retire the old ones.
    #[command(
        after_help = "All or nothing: a new key in the same key store, the alias pointed to it, its history written.\n\
        What was encrypted before stays readable.\n\nExample:\n  hsm-bridge rotate --alias alias/payments --plan\n  \
        hsm-bridge rotate --alias alias/payments --reason yearly"
    )]
    Rotate(Box<RotateCommand>),
    /// Bring ciphertexts of your own under an alias's current key. An API client: it needs AWS credentials and no configuration.
    #[command(
        after_help = "Blobs in files (binary or base64), in directories, or one base64 blob per line on standard input (`-`). Those\n\
        under the current key are left alone, and so are blobs of keys that the alias never pointed to. The plaintext\n\
        stays in the service. Run it again after an interruption: what is done is recognised.\n\nExample:\n  \
        hsm-bridge reencrypt --alias alias/payments --context app=orders --dry-run /srv/orders/keys"
    )]
    Reencrypt(Box<ReencryptArguments>),
    /// Make, list and disable access keys.
    #[command(subcommand)]
    AccessKey(AccessKeyCommand),
    /// Accounts, users, groups, roles, policies, identity providers, services and their access keys.
    Iam(Box<IamArguments>),
    /// Back the store up, and put a backup back.
    #[command(subcommand)]
    Store(StoreCommand),
    /// Read and check the audit log.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Look into a ciphertext blob, without a key.
    #[command(subcommand)]
    Ciphertext(CiphertextCommand),
    /// Show whether scheduled deletions are carried out, or let them go on after a jump of the clock.
    Sweeper {
        /// The clock is right: go on now. TICKET stands in the log.
        #[arg(long, value_name = "TICKET")]
        confirm: Option<String>,
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
pub enum AccessKeyCommand {
    /// A new access key; its secret is shown once.
    #[command(
        after_help = "Without --user it is one more key of the account's root user. A user is made with its first key."
    )]
    Create {
        #[arg(long, value_name = "NAME")]
        user: Option<UserName>,
        #[arg(long)]
        json: bool,
    },
    /// All access keys, without secrets.
    List {
        #[arg(long)]
        json: bool,
    },
    /// Refuse an access key from the next request on.
    Disable {
        id: AccessKeyId,
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
pub enum StoreCommand {
    /// A consistent copy of the store, while it serves or not. Back the token up by its own means as well.
    Backup {
        path: PathBuf,
        #[arg(long)]
        json: bool,
    },
    /// Put a backup back, while it serves or not. Keys made since are then objects without a record.
    Restore {
        path: PathBuf,
        /// Why the store goes back in time; stands in the log.
        #[arg(long, value_name = "TICKET")]
        ticket: String,
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
pub enum AuditCommand {
    /// Print the log as it grows. Needs no server, no token and no lock.
    Tail(TailOptions),
    /// Check the log and its signatures. Needs no server, no token and no lock.
    #[command(after_help = super::verify::EXIT_CODES)]
    Verify(Box<super::verify::VerifyOptions>),
    /// Serve the folder of a trail or an export read-only, for the stock AWS CLI. Needs no server, no token and no configuration.
    #[command(
        after_help = "On a loopback address, with an access key of its own that is printed as lines for a shell. Nothing is recorded. It \
        ends at SIGINT or SIGTERM.\n\nExample:\n  hsm-bridge audit serve ./evidence --listen 127.0.0.1:8443 > env.sh &\n  . ./env.sh\n  \
        aws cloudtrail validate-logs --start-time 2026-01-01T00:00:00Z --trail-arn arn:aws:cloudtrail:…"
    )]
    Serve(ServeFiles),
    /// Prove to somebody who does not get the log that one record is in it.
    Prove(super::verify::ProveOptions),
    /// Check that one head of the log continues another. Exit code 3: it does not.
    Consistency(super::verify::ConsistencyOptions),
    /// Write records of a range as files: signed, and with the proof that they are in the log.
    #[command(
        after_help = "The folder has the records byte for byte, the formats asked for, a manifest, the signature, the proof and the \
        public keys; VERIFY.txt in it says how to check it. docs/exports.md describes every file.\n\nExample:\n  \
        hsm-bridge audit export --from 2026-10-01 --to 2026-11-01 --format csv --out /srv/audit/october"
    )]
    Export(Box<ExportArguments>),
    /// Print what records have instead of a value of an encryption context, where `[audit] encryption_context` is `hmac`.
    Hash {
        value: String,
        #[arg(long)]
        json: bool,
    },
    /// Delete sealed files and journal segments whose retention has ended. The service does it every hour.
    #[command(after_help = "What goes is recorded first. Nothing goes while `audit.legal_hold` is set.")]
    Prune {
        /// Only say what would go.
        #[arg(long)]
        dry_run: bool,
        #[arg(long)]
        json: bool,
    },
    /// Cut what an unfinished write left at the end of the log, where the service cannot be started. Needs the lock.
    #[command(
        after_help = "What is cut is kept beside the journal, and the log says so. Everything else that `audit verify` finds is \
        refused with its exit code. A start of the service does the same by itself."
    )]
    Repair {
        /// The trail's directory; by default the configuration's.
        dir: Option<PathBuf>,
    },
    /// The keys that sign the log: certificates, rotation.
    #[command(subcommand)]
    Key(AuditKeyCommand),
    /// Make a report for auditors, R1 to R14, with the verifier's verdict on top.
    #[command(after_help = super::audit::REPORTS)]
    Report(Box<super::audit::ReportOptions>),
    /// Put a sign-off into the log: a reviewed report, an acknowledged duty.
    AttestReview(Box<super::audit::AttestOptions>),
    /// Put a key ceremony into the log.
    Ceremony(Box<super::audit::CeremonyOptions>),
    /// Write what points `aws s3` and `aws cloudtrail validate-logs` of an AWS CLI older than 2.13 here: a directory for
    /// AWS_DATA_PATH.
    AwsDataPath {
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Where the service is.
        #[arg(long, value_name = "URL", env = "AWS_ENDPOINT_URL")]
        endpoint: String,
    },
}

#[derive(Args)]
pub struct ServeFiles {
    /// The trail's directory; by default the configuration's.
    pub dir: Option<PathBuf>,
    /// The folder that `audit export` wrote.
    #[arg(long, value_name = "DIR", conflicts_with = "dir")]
    pub bundle: Option<PathBuf>,
    /// A loopback address.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8443")]
    pub listen: SocketAddr,
}

#[derive(Args)]
pub struct ExportArguments {
    /// Records written at this time or later: `2026-10-01` or `2026-10-01T08:00:00Z`. By default all.
    #[arg(long, value_name = "TIME", value_parser = instant)]
    pub from: Option<i64>,
    /// Records written before this time.
    #[arg(long, value_name = "TIME", value_parser = instant)]
    pub to: Option<i64>,
    /// `csv` (the default), `jsonl`, `ocsf`, `cef`, `cloudtrail`; may be given more than once.
    #[arg(long = "format", value_name = "FORMAT", value_parser = ["csv", "jsonl", "ocsf", "cef", "cloudtrail"])]
    pub formats: Vec<String>,
    /// Only records about this key: its ARN or id.
    #[arg(long)]
    pub key: Option<String>,
    /// Only records of this caller: ARN (of its role, too), user name, principal id or access key.
    #[arg(long)]
    pub principal: Option<String>,
    /// Only records of this event.
    #[arg(long, value_name = "NAME")]
    pub event: Option<String>,
    /// Only failures.
    #[arg(long)]
    pub errors: bool,
    #[arg(long, value_name = "VERSION", value_parser = ["1.8", "1.9"])]
    pub ocsf_version: Option<String>,
    /// The folder to write; it must not exist.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    #[arg(long)]
    pub json: bool,
}

/// A day (its beginning, UTC) or a moment, as milliseconds since the epoch.
pub fn instant(text: &str) -> Result<i64, String> {
    use time::format_description::well_known::Rfc3339;
    let moment = if text.len() == 10 { format!("{text}T00:00:00Z") } else { text.to_owned() };
    let moment = time::OffsetDateTime::parse(&moment, &Rfc3339)
        .map_err(|_| "write it as 2026-10-01 or 2026-10-01T08:00:00Z".to_owned())?;
    i64::try_from(moment.unix_timestamp_nanos() / 1_000_000).map_err(|_| "no such time".to_owned())
}

#[derive(Args)]
pub struct TailOptions {
    /// The trail's directory; by default the configuration's.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Wait for more.
    #[arg(short, long)]
    pub follow: bool,
    /// Records to begin with.
    #[arg(short = 'n', long, default_value_t = 10)]
    pub last: usize,
    /// Begin with this record instead.
    #[arg(long, value_name = "SEQ")]
    pub since: Option<u64>,
    /// Only records of this event.
    #[arg(long, value_name = "NAME")]
    pub event: Option<String>,
    /// Only records about this ARN (or a part of it).
    #[arg(long, value_name = "ARN")]
    pub resource: Option<String>,
    /// Only records of this caller: a part of ARN, user name or access key.
    #[arg(long, value_name = "TEXT")]
    pub caller: Option<String>,
    /// Only failures.
    #[arg(long)]
    pub errors: bool,
    /// The lines as they are, instead of one short line each.
    #[arg(long)]
    pub json: bool,
}

#[derive(Subcommand)]
pub enum CiphertextCommand {
    /// Which key and generation made a blob, and its parts. Nothing in it is authenticated until the token opens it.
    Inspect {
        /// The blob, binary or base64; `-` is standard input.
        file: PathBuf,
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
pub struct ReencryptArguments {
    /// The alias whose current key takes the blobs over.
    #[arg(long)]
    pub alias: AliasName,
    /// A key whose blobs are taken over too, though the alias's history does not name it. Needed in strict mode.
    #[arg(long = "from-key", value_name = "KEY_ID")]
    pub from_keys: Vec<KeyId>,
    /// A pair of the encryption context, the same for all blobs of this run.
    #[arg(long, value_name = "KEY=VALUE", value_parser = context_pair)]
    pub context: Vec<(String, String)>,
    /// By default AWS_ENDPOINT_URL_KMS or AWS_ENDPOINT_URL.
    #[arg(long, value_name = "URL")]
    pub endpoint: Option<String>,
    /// By default AWS_REGION or AWS_DEFAULT_REGION.
    #[arg(long)]
    pub region: Option<String>,
    /// Ask the service whether it would, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Connections at one time.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub parallel: u8,
    /// With `-`: the file for the lines; one that an interrupted run left behind is continued.
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    #[arg(long)]
    pub json: bool,
    /// Files and directories, or `-`.
    #[arg(required = true, value_name = "PATH")]
    pub inputs: Vec<PathBuf>,
}

pub fn context_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as KEY=VALUE".to_owned()),
    }
}

#[derive(Args)]
pub struct DevArguments {
    /// Where everything is kept; a temporary directory by default, removed at the end.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Address of the endpoint; port 0 picks one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8443")]
    pub listen: SocketAddr,
    /// Account of the ARNs, 111122223333 by default.
    #[arg(long, value_name = "ID")]
    pub account: Option<AccountId>,
    /// Region of the ARNs, us-east-1 by default.
    #[arg(long)]
    pub region: Option<Region>,
    /// Write the exports here once requests are answered (mode 0600, whole or not at all).
    #[arg(long, value_name = "FILE")]
    pub env_file: Option<PathBuf>,
    /// Serve TLS with a certificate made for localhost.
    #[arg(long)]
    pub tls: bool,
    /// Have N more SoftHSM tokens (up to 16) for custom key stores; a directory keeps those that it has.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=16))]
    pub custom_tokens: u8,
    /// What an alias may mean at Decrypt: its key and those of its history, or its key alone as in AWS.
    #[arg(long, value_name = "history|strict", value_parser = decrypt_alias_mode)]
    pub decrypt_alias_mode: Option<DecryptAliasMode>,
    /// KeySpecs beside SYMMETRIC_DEFAULT that keys in custom key stores may have, with commas between them.
    #[arg(long, value_name = "SPEC,…", value_delimiter = ',', value_parser = key_spec)]
    pub custom_store_key_specs: Vec<KeySpec>,
    /// Put the text of FILE at the end of the configuration that is written at each start: settings for tests. Sections
    /// that `dev` writes itself cannot be repeated there.
    #[arg(long, value_name = "FILE")]
    pub config_extra: Option<PathBuf>,
}

fn decrypt_alias_mode(text: &str) -> Result<DecryptAliasMode, String> {
    match text {
        "history" => Ok(DecryptAliasMode::History),
        "strict" => Ok(DecryptAliasMode::Strict),
        _ => Err("`history` or `strict` is wanted".to_owned()),
    }
}

/// Key id or key ARN.
pub fn key_id(text: &str) -> Result<KeyId, String> {
    let id = match text.starts_with("arn:") {
        true => text.rsplit_once(":key/").map_or(text, |(_, id)| id),
        false => text,
    };
    id.parse().map_err(|_| "a key id or a key ARN is wanted".to_owned())
}

pub fn key_spec(text: &str) -> Result<KeySpec, String> {
    KeySpec::from_wire(text).ok_or_else(|| {
        let known: Vec<&str> = KeySpec::ALL.iter().map(|spec| spec.as_str()).collect();
        format!("one of {} is wanted", known.join(", "))
    })
}

#[derive(Args)]
pub struct InitOptions {
    /// The vendor's PKCS#11 library.
    #[arg(long, value_name = "FILE", default_value = "/usr/lib/softhsm/libsofthsm2.so")]
    pub module: PathBuf,
    /// Label of the initialised token.
    #[arg(long, value_name = "LABEL", default_value = "hsm-bridge")]
    pub token_label: String,
    /// File with the user PIN.
    #[arg(long, value_name = "FILE", default_value = "pin")]
    pub pin_file: PathBuf,
    #[arg(long, value_name = "DIR", default_value = "/var/lib/hsm-bridge")]
    pub state_dir: PathBuf,
    #[arg(long, value_name = "ID", default_value = "111122223333")]
    pub account: AccountId,
    #[arg(long, default_value = "us-east-1")]
    pub region: Region,
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8443")]
    pub listen: SocketAddr,
    /// Variable for the library, NAME=VALUE; may be given again.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub environment: Vec<(String, String)>,
    #[arg(long)]
    pub json: bool,
}

pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("NAME=VALUE is wanted".to_owned()),
    }
}

impl InitOptions {
    /// A configuration with what was given; everything else has its default.
    pub fn configuration(&self) -> String {
        let quote = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let path = |path: &PathBuf| {
            let absolute = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            quote(&absolute.display().to_string())
        };
        let environment: Vec<String> =
            self.environment.iter().map(|(name, value)| format!("{} = {}", quote(name), quote(value))).collect();
        format!(
            "# Written by `hsm-bridge init`. hsm-config/hsm-bridge.example.toml explains every key.\n[server]\n\
             state_dir = {}\naccount = {}\nregion = {}\n\n[[listener]]\naddress = {}\n\n[token]\nmodule = {}\n\
             label = {}\npin_file = {}\nenvironment = {{ {} }}\n",
            path(&self.state_dir),
            quote(self.account.as_str()),
            quote(self.region.as_str()),
            quote(&self.listen.to_string()),
            path(&self.module),
            quote(&self.token_label),
            path(&self.pin_file),
            environment.join(", ")
        )
    }
}
