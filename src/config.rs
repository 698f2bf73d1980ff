//! The configuration: one TOML file, checked whole before anything starts. Unknown keys are refused with the nearest known
//! one named, secrets are only pointed to, relative paths count from the file's own directory.
//! `hsm-config/hsm-bridge.example.toml` explains every key.

mod audit;
mod document;
mod pin;
mod sinks;
mod tokens;
mod uri;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::ids::spec::KeySpec;
use crate::ids::{Locality, Region};
pub use audit::{Audit, EncryptionContextMode, TokenLog};
use document::{Document, Section, nearest_word};
pub use pin::PinSource;
pub use sinks::{AuditSink, SinkTarget, SinkTrust};
pub use tokens::{CustomToken, Isolation, Reads, Together, Token, TokenMember, TokenSelector};

/// Random 96-bit IVs under one AES key are safe to this many encryptions (SP 800-38D §8.3).
pub const GCM_ENCRYPTIONS: u64 = 1 << 32;

/// What the local operator can be allowed. Cryptographic operations are not among them, whatever the file says.
pub const OPERATOR_ACTIONS: &[&str] = &[
    "key:list",
    "key:show",
    "access-key:create",
    "access-key:list",
    "access-key:disable",
    "store:backup",
    "store:restore",
    "doctor",
    "sweeper:show",
    "sweeper:confirm",
    "token:list",
    "token:reconcile",
    "token:pin",
    "token:replace",
    "key:adopt",
    "key:attest",
    "alias:list",
    "alias:history",
    "alias:history-drop",
    "rotate",
    "rotate:plan",
    "rotate:report",
    "rotate:retire",
    "audit:prune",
    "key:create",
    "policy:simulate",
    "audit:report",
    "audit:attest-review",
    "audit:ceremony",
    "audit:export",
    "audit:hash",
    "audit:key-show",
    "audit:key-csr",
    "audit:key-install",
    "audit:key-rotate",
    "iam:read",
    "iam:change",
    "iam:root",
];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub server: Server,
    /// At least one.
    pub listeners: Vec<Listener>,
    pub http: Http,
    /// Where `/healthz`, `/readyz` and `/metrics` are; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// The default key store's token.
    pub token: Token,
    /// `[[custom_token]]`: tokens for custom key stores.
    pub custom_tokens: Vec<CustomToken>,
    pub key_stores: KeyStores,
    pub rotation: Rotation,
    pub store: Store,
    pub audit: Audit,
    /// `[[audit_sink]]`: where copies of the log go.
    pub audit_sinks: Vec<AuditSink>,
    /// `[[token_log]]`: logs that tokens keep of themselves.
    pub token_logs: Vec<TokenLog>,
    pub authn: Authn,
    pub authz: Authz,
    pub operator: Operator,
    pub sweeper: Sweeper,
    pub limits: Limits,
    pub log: Log,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    pub state_dir: PathBuf,
    /// Account and Region of this instance's ARNs.
    pub locality: Locality,
    /// Regions that a signature's scope may name beside its own.
    pub accepted_regions: Vec<Region>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    pub address: SocketAddr,
    /// `None`: plain HTTP.
    pub tls: Option<TlsFiles>,
}

/// PEM files; read at start and at SIGHUP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    pub danger_plain_http_beyond_loopback: bool,
    pub max_body_bytes: usize,
    pub max_header_bytes: usize,
    pub header_timeout: Duration,
    pub body_timeout: Duration,
    pub request_timeout: Duration,
    pub idle_timeout: Duration,
    /// Over all listeners.
    pub max_connections: usize,
    /// How long requests in flight may take after SIGTERM.
    pub drain: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyStores {
    /// Key specs beyond SYMMETRIC_DEFAULT that CreateKey takes in a custom key store. Beyond AWS; none by default.
    pub custom_store_key_specs: Vec<KeySpec>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    pub decrypt_alias_mode: DecryptAliasMode,
    /// Share of the GCM budget, in thousandths, at which a key that is reached through an alias is rotated; `None`: never.
    pub at_usage: Option<u32>,
    /// A key older than this is overdue in `rotate report`.
    pub max_age_days: u32,
    /// `rotate retire` refuses keys that were used within this many days.
    pub retire_unused_days: u32,
}

/// What an alias may have meant at Decrypt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecryptAliasMode {
    /// Its current key or one of its history.
    History,
    /// Its current key, as in AWS.
    Strict,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// PEM file with an officer's RSA public key.
    pub recovery_key: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authn {
    /// Answers to a wrong signature show the canonical request, as AWS does.
    pub debug_signature_errors: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Authz {
    /// Key policies may name accounts that this bridge does not serve, and whoever is in them.
    pub allow_unknown_accounts: bool,
    /// Refusals do not say which kind of policy refused.
    pub hide_policy_type: bool,
    /// A grant to a principal of another account suffices; else that account's policies must allow it too.
    pub grants_suffice_cross_account: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// A subset of `OPERATOR_ACTIONS`.
    pub allow: BTreeSet<String>,
}

impl Operator {
    pub fn allows(&self, action: &str) -> bool {
        self.allow.contains(action)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sweeper {
    pub interval: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Encryptions under one generation of a key; at most `GCM_ENCRYPTIONS`.
    pub gcm_encryptions: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    pub format: LogFormat,
    pub level: LogLevel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogFormat {
    pub fn as_str(self) -> &'static str {
        match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        }
    }
}

impl LogLevel {
    /// The word that the file and `tracing` use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Why a configuration is refused: the file, the key and what to do. Never holds a secret.
#[derive(Debug, thiserror::Error)]
#[error("{}{problem}", file.as_deref().map(|path| format!("configuration `{}`: ", path.display())).unwrap_or_default())]
pub struct ConfigError {
    file: Option<PathBuf>,
    problem: Problem,
}

impl ConfigError {
    fn new(problem: Problem) -> Self {
        Self { file: None, problem }
    }
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("cannot be read: {0}")]
    Read(std::io::Error),
    #[error("is not TOML, line {line}: {message}")]
    Syntax { line: usize, message: String },
    #[error("unknown key `{key}` at line {line}: did you mean `{nearest}`?")]
    UnknownKey { key: String, line: usize, nearest: String },
    #[error(
        "unknown key `{key}` at line {line}: a secret never stands in this file: put it into a file of its own and name \
         that with `token.pin_file` or `token.pin_credential`"
    )]
    InlineSecret { key: String, line: usize },
    #[error("`{key}`{} {what}", line.map(|line| format!(" at line {line}")).unwrap_or_default())]
    Value { key: String, line: Option<usize>, what: String },
    #[error("{0}")]
    Pin(String),
}

impl Config {
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let in_file = |problem| ConfigError { file: Some(path.to_owned()), problem };
        let text = std::fs::read_to_string(path).map_err(|e| in_file(Problem::Read(e)))?;
        // Made absolute here, so that paths stay right should the process change its directory.
        let absolute = std::path::absolute(path).map_err(|e| in_file(Problem::Read(e)))?;
        let base_dir = absolute.parent().unwrap_or(Path::new("/"));
        checked(&text, base_dir).map_err(in_file)
    }

    /// Relative paths in `text` count from `base_dir`.
    pub fn parse(text: &str, base_dir: &Path) -> Result<Self, ConfigError> {
        checked(text, base_dir).map_err(ConfigError::new)
    }
}

fn checked(text: &str, base_dir: &Path) -> Result<Config, Problem> {
    let document = Document::parse(text)?;
    let server = server(&document.section("server"), base_dir)?;
    let http = http(&document.section("http"))?;
    let token = tokens::token(&document.section("token"), base_dir)?;
    Ok(Config {
        listeners: listeners(&document, base_dir, &http)?,
        metrics: metrics(&document.section("metrics"))?,
        custom_tokens: tokens::custom_tokens(&document, &token, base_dir)?,
        token,
        key_stores: key_stores(&document.section("key_stores"))?,
        rotation: rotation(&document.section("rotation"))?,
        store: Store { recovery_key: path(&document.section("store"), "recovery_key", base_dir)? },
        audit: audit::audit(&document.section("audit"), base_dir, &server.state_dir)?,
        audit_sinks: sinks::audit_sinks(&document, base_dir)?,
        token_logs: audit::token_logs(&document, base_dir)?,
        authn: Authn { debug_signature_errors: document.section("authn").flag("debug_signature_errors", false)? },
        authz: authz(&document.section("authz"))?,
        operator: operator(&document.section("operator"))?,
        sweeper: Sweeper { interval: seconds(&document.section("sweeper"), "interval_seconds", DAY, 60)? },
        // May only be lowered: the default is the standard's bound.
        limits: Limits {
            gcm_encryptions: document.section("limits").integer(
                "gcm_encryptions",
                1..=GCM_ENCRYPTIONS,
                GCM_ENCRYPTIONS,
            )?,
        },
        log: log(&document.section("log"))?,
        server,
        http,
    })
}

fn server(section: &Section<'_>, base_dir: &Path) -> Result<Server, Problem> {
    let account =
        section.parsed("account")?.ok_or_else(|| section.problem("account", "is missing: write 12 digits"))?;
    let region = section
        .parsed("region")?
        .ok_or_else(|| section.problem("region", "is missing: write the Region that clients sign for"))?;
    let mut accepted_regions = Vec::new();
    for name in section.texts("accepted_regions")?.unwrap_or_default() {
        accepted_regions.push(name.parse().map_err(|e| section.problem("accepted_regions", e))?);
    }
    Ok(Server {
        state_dir: base_dir.join(section.required_text("state_dir")?),
        locality: Locality { account, region },
        accepted_regions,
    })
}

fn listeners(document: &Document, base_dir: &Path, http: &Http) -> Result<Vec<Listener>, Problem> {
    let mut listeners: Vec<Listener> = Vec::new();
    for section in document.sections("listener") {
        let address = socket_address(&section, "address", section.required_text("address")?)?;
        let tls = match (path(&section, "certificate", base_dir)?, path(&section, "key", base_dir)?) {
            (Some(certificate), Some(key)) => Some(TlsFiles { certificate, key }),
            (None, None) => None,
            (Some(_), None) => return Err(section.problem("key", "is missing: `certificate` is set, TLS needs both")),
            (None, Some(_)) => return Err(section.problem("certificate", "is missing: `key` is set, TLS needs both")),
        };
        if tls.is_none() && !address.ip().is_loopback() && !http.danger_plain_http_beyond_loopback {
            return Err(section.problem(
                "address",
                format_args!(
                    "is `{address}`, which others can reach, without TLS: set `certificate` and `key`, or listen on \
                     127.0.0.1 (`http.danger_plain_http_beyond_loopback` overrides this)"
                ),
            ));
        }
        if address.port() != 0 && listeners.iter().any(|other| other.address == address) {
            return Err(section.problem("address", format_args!("is `{address}`: another listener has the same")));
        }
        listeners.push(Listener { address, tls });
    }
    if listeners.is_empty() {
        return Err(Problem::Value {
            key: "listener".into(),
            line: None,
            what: "is missing: write at least one `[[listener]]` with an `address`".into(),
        });
    }
    Ok(listeners)
}

fn http(section: &Section<'_>) -> Result<Http, Problem> {
    Ok(Http {
        danger_plain_http_beyond_loopback: section.flag("danger_plain_http_beyond_loopback", false)?,
        max_body_bytes: size(section, "max_body_bytes", 16_384..=64 << 20, 1 << 20)?,
        max_header_bytes: size(section, "max_header_bytes", 8_192..=1 << 20, 16_384)?,
        header_timeout: seconds(section, "header_timeout_seconds", HOUR, 10)?,
        body_timeout: seconds(section, "body_timeout_seconds", HOUR, 30)?,
        request_timeout: seconds(section, "request_timeout_seconds", HOUR, 60)?,
        idle_timeout: seconds(section, "idle_timeout_seconds", DAY, 60)?,
        max_connections: size(section, "max_connections", 1..=1_000_000, 1_024)?,
        drain: seconds(section, "drain_seconds", HOUR, 25)?,
    })
}

fn metrics(section: &Section<'_>) -> Result<Option<SocketAddr>, Problem> {
    match section.text("address")?.unwrap_or("127.0.0.1:9464") {
        "off" => Ok(None),
        address => socket_address(section, "address", address).map(Some),
    }
}

fn key_stores(section: &Section<'_>) -> Result<KeyStores, Problem> {
    let mut specs = Vec::new();
    for name in section.texts("custom_store_key_specs")?.unwrap_or_default() {
        let Some(spec) = KeySpec::from_wire(name) else {
            let known: Vec<&str> = KeySpec::ALL.iter().map(|spec| spec.as_str()).collect();
            let nearest = nearest_word(name, &known);
            return Err(section.problem(
                "custom_store_key_specs",
                format_args!("has `{name}`, which is no KeySpec of ours: did you mean `{nearest}`?"),
            ));
        };
        if spec != KeySpec::SymmetricDefault && !specs.contains(&spec) {
            specs.push(spec);
        }
    }
    Ok(KeyStores { custom_store_key_specs: specs })
}

fn rotation(section: &Section<'_>) -> Result<Rotation, Problem> {
    const MODES: [(&str, DecryptAliasMode); 2] =
        [("history", DecryptAliasMode::History), ("strict", DecryptAliasMode::Strict)];
    const CENTURY: u64 = 36_500;
    let mode = section.text("decrypt_alias_mode")?.unwrap_or("history");
    Ok(Rotation {
        decrypt_alias_mode: MODES.into_iter().find_map(|(word, value)| (word == mode).then_some(value)).ok_or_else(
            || section.problem("decrypt_alias_mode", format_args!("is `{mode}`: write `history` or `strict`")),
        )?,
        at_usage: section.thousandths("at_usage", 10..=990)?,
        max_age_days: small(section, "max_age_days", 1..=CENTURY, 365)?,
        retire_unused_days: small(section, "retire_unused_days", 1..=CENTURY, 30)?,
    })
}

fn authz(section: &Section<'_>) -> Result<Authz, Problem> {
    Ok(Authz {
        allow_unknown_accounts: section.flag("allow_unknown_accounts", false)?,
        hide_policy_type: section.flag("hide_policy_type", false)?,
        grants_suffice_cross_account: section.flag("grants_suffice_cross_account", true)?,
    })
}

fn operator(section: &Section<'_>) -> Result<Operator, Problem> {
    let Some(actions) = section.texts("allow")? else {
        return Ok(Operator { allow: OPERATOR_ACTIONS.iter().map(|action| (*action).to_owned()).collect() });
    };
    match actions.iter().find(|action| !OPERATOR_ACTIONS.contains(action)) {
        Some(unknown) => {
            let nearest = nearest_word(unknown, OPERATOR_ACTIONS);
            Err(section
                .problem("allow", format_args!("has `{unknown}`, which is no action: did you mean `{nearest}`?")))
        }
        None => Ok(Operator { allow: actions.into_iter().map(str::to_owned).collect() }),
    }
}

fn log(section: &Section<'_>) -> Result<Log, Problem> {
    const FORMATS: [(&str, LogFormat); 2] = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    const LEVELS: [LogLevel; 5] = [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace];
    let format = section.text("format")?.unwrap_or("text");
    let level = section.text("level")?.unwrap_or("info");
    Ok(Log {
        format: FORMATS
            .into_iter()
            .find_map(|(word, value)| (word == format).then_some(value))
            .ok_or_else(|| section.problem("format", format_args!("is `{format}`: write `text` or `json`")))?,
        level: LEVELS.into_iter().find(|known| known.as_str() == level).ok_or_else(|| {
            section.problem("level", format_args!("is `{level}`: write `error`, `warn`, `info`, `debug` or `trace`"))
        })?,
    })
}

const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;

fn path(section: &Section<'_>, key: &str, base_dir: &Path) -> Result<Option<PathBuf>, Problem> {
    Ok(section.text(key)?.map(|text| base_dir.join(text)))
}

fn socket_address(section: &Section<'_>, key: &str, text: &str) -> Result<SocketAddr, Problem> {
    text.parse().map_err(|_| {
        section.problem(
            key,
            format_args!("is `{text}`: write an IP address and a port, such as `127.0.0.1:8443` or `[::1]:8443`"),
        )
    })
}

fn seconds(section: &Section<'_>, key: &str, most: u64, default: u64) -> Result<Duration, Problem> {
    section.integer(key, 1..=most, default).map(Duration::from_secs)
}

fn milliseconds(section: &Section<'_>, key: &str, default: u64) -> Result<Duration, Problem> {
    section.integer(key, 1..=1_000 * HOUR, default).map(Duration::from_millis)
}

fn small(section: &Section<'_>, key: &str, range: std::ops::RangeInclusive<u64>, default: u64) -> Result<u32, Problem> {
    let number = section.integer(key, range, default)?;
    u32::try_from(number).map_err(|_| section.problem(key, "is too large"))
}

fn size(
    section: &Section<'_>,
    key: &str,
    range: std::ops::RangeInclusive<u64>,
    default: u64,
) -> Result<usize, Problem> {
    let number = section.integer(key, range, default)?;
    usize::try_from(number).map_err(|_| section.problem(key, "is too large for this machine"))
}

#[cfg(test)]
mod tests;
