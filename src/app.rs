//! The only place where token, store, audit and clock meet: start-up checks in their order, the running service, and its
//! end. Everything that can refuse to start refuses before the token's PIN is tried, where it can.

mod access_key_uses;
mod anchors;
pub mod audit_keys;
mod audit_office;
pub mod audit_serve;
mod audit_sinks;
mod away;
mod clock_file;
pub mod dev;
pub mod init;
pub mod issuer_keys;
mod last_use;
mod members;
mod operator_socket;
mod patient;
mod pins;
mod runtime;
mod sealing;
pub mod serve;
mod session_keys;
mod settle;
mod state_snapshots;
mod token_health;
mod token_watch;
mod tokens;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::audit::index::Index;
use crate::audit::{self, AuditError, Checkpoints, Journal, Load, Recovery, Strangers};
use crate::authn::federation::{KeySets, Oidc};
use crate::authn::{self, Authenticator};
use crate::authz::{OperatorCommands, Rules};
use crate::config::{self, Config, ConfigError, DecryptAliasMode, EncryptionContextMode, Isolation, TokenSelector};
use crate::http::{Metrics, Services, Streams};
use crate::keystore::{CallContext, ConfiguredToken, ErrorClass, KeyStores, OpenFailure, Token, TokenError};
use crate::ops::store_key::TokenWrap;
use crate::ops::{self, ClockWatch, OpError, OperatorRequest, OperatorResponse, Ops, Progress, TokenSecrets};
use crate::store::{Store, StoreError, StoreLock};
use crate::token;

pub use crate::token::{apply_environment, exit_now, worker_on_stdin};
use audit_keys::{AuditKeys, Trail};
pub use operator_socket::{Asked, PROGRESS_INTERVAL, ask_running, socket_path};
pub use runtime::{harden, log_to_stderr, log_words_to_stderr};

/// Rows of the table of strangers.
const STRANGERS: usize = 1024;

/// Why the program ends, with its exit code (sysexits.h).
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// A file that belongs to the configuration.
    #[error("{0}")]
    Profile(String),
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Audit(#[from] AuditError),
    #[error("{0}")]
    Token(String),
    /// The token may come by itself. `members`: how each of several is, safe for `/readyz`.
    #[error("{error}")]
    TokenAway { error: String, members: Option<String> },
    /// Calls of the vendor's library do not come back.
    #[error("{0}: the service has to be started again")]
    Hung(String),
    #[error("{0}")]
    Pin(String),
    #[error("{0}")]
    Listen(String),
    #[error("{0}")]
    Io(String),
}

impl AppError {
    pub fn exit_code(&self) -> u8 {
        match self {
            // Another process serves this directory, whichever of the two locks says so.
            AppError::Store(StoreError::Locked { .. }) | AppError::Audit(AuditError::Locked { .. }) => 75,
            // RULE audit.md §7.9: the same as `audit verify` says of such a log.
            AppError::Audit(AuditError::Truncated(_)) => 2,
            AppError::Refused(_) | AppError::Store(_) => 1,
            AppError::Audit(_) | AppError::Io(_) => 74,
            AppError::Token(_) | AppError::TokenAway { .. } | AppError::Listen(_) => 69,
            AppError::Hung(_) => 71,
            AppError::Pin(_) => 77,
            AppError::Config(_) | AppError::Profile(_) => 78,
        }
    }
}

impl From<TokenError> for AppError {
    fn from(error: TokenError) -> Self {
        match (error.open_failure(), error.rv) {
            (OpenFailure::PinIncorrect | OpenFailure::PinLocked | OpenFailure::PinNotInitialised, 0) => {
                AppError::Pin(format!("the token takes no login ({error})"))
            }
            (OpenFailure::PinIncorrect | OpenFailure::PinLocked | OpenFailure::PinNotInitialised, _) => {
                AppError::Pin(format!(
                    "the token refuses the login ({error}): check the PIN; it was tried once and is not tried again"
                ))
            }
            // A library that does not load never will.
            (OpenFailure::NotPresent | OpenFailure::Other, _)
                if matches!(
                    error.class,
                    ErrorClass::Context | ErrorClass::Session | ErrorClass::Capacity | ErrorClass::Deadline
                ) && error.function != "C_GetFunctionList"
                    // Marks of PINs that cannot be kept: nothing of the token's.
                    && (error.function, error.rv) != ("C_Login", 0) =>
            {
                AppError::TokenAway { error: format!("the token cannot be used ({error})"), members: None }
            }
            (OpenFailure::NotPresent | OpenFailure::WrongToken | OpenFailure::Other, _) => {
                AppError::Token(format!("the token cannot be used ({error})"))
            }
        }
    }
}

impl From<OpError> for AppError {
    fn from(error: OpError) -> Self {
        AppError::Refused(error.to_string())
    }
}

/// How to start beyond the configuration.
#[derive(Debug, Clone, Default)]
pub struct StartOptions {
    /// Ticket for starting with a store older than the journal.
    pub accept_store_rollback: Option<String>,
    /// Ticket for starting with another default token than the known one, for `token replace` only.
    pub accept_token_replacement: Option<String>,
    /// Ticket for starting although records of the log that were signed are missing.
    pub accept_loss: Option<String>,
    /// The PIN of the default token, or of one of several, is tried also where this host has seen it rejected, for `token pin --retry` only.
    /// Its name.
    pub retry_pin: Option<String>,
}

/// The opened instance: both locks held, token logged in, store and journal agreed.
pub struct App {
    config: Config,
    services: Arc<Services>,
    token: Token,
    /// Seq of the first record of this run.
    boot_seq: u64,
    audit_keys: Arc<AuditKeys>,
    /// Of the log; empty until somebody feeds it.
    index: Index,
    sealing: sealing::Sealing,
    anchors: Arc<anchors::Anchors>,
    checkpoints: Arc<Checkpoints>,
}

/// The locks and the journal, before the token is touched.
struct Opened {
    lock: StoreLock,
    journal: Journal,
    recovery: Recovery,
}

impl App {
    /// Locks, journal, token, store, settlement: in this order.
    pub async fn open(config: Config, options: &StartOptions) -> Result<App, AppError> {
        let opened = open_files(&config, options)?;
        opened.journal.admit(Load::Administration)?;
        // What is wrong with a profile is told before the PIN is tried.
        let configured = tokens::configured(&config)?;
        if let Some(token) = &options.retry_pin {
            pins::retry(&config, token, &opened.journal).await?;
        }
        let token = connect(&config).await?;
        Self::open_with(config, configured, opened, token, Arc::new(Metrics::new()), options).await
    }

    async fn open_with(
        config: Config,
        configured: Vec<ConfiguredToken>,
        opened: Opened,
        token: Token,
        metrics: Arc<Metrics>,
        options: &StartOptions,
    ) -> Result<App, AppError> {
        let Opened { lock, journal, recovery } = opened;
        let wrap = TokenWrap::new(token.clone());
        let store = Store::open(lock, &wrap).await?;
        same_deployment(&store, &config)?;

        let seen = clock_file::read(&config.server.state_dir)?;
        let clock = Arc::new(ClockWatch::new(seen, now_ms(), Instant::now()));
        let settings = ops::Settings {
            now: now_ms(),
            locality: config.server.locality.clone(),
            gcm_limit: config.limits.gcm_encryptions,
            generate_deadline: config.token.generate_deadline,
            custom_store_key_specs: config.key_stores.custom_store_key_specs.clone(),
            allow_unknown_accounts: config.authz.allow_unknown_accounts,
            grants_suffice_cross_account: config.authz.grants_suffice_cross_account,
            rotation: ops::RotationSettings {
                alias_history_decrypts: config.rotation.decrypt_alias_mode == DecryptAliasMode::History,
                at_usage: config.rotation.at_usage,
                max_age_days: config.rotation.max_age_days,
                retire_unused_days: config.rotation.retire_unused_days,
            },
        };
        let ops = Arc::new(Ops::new(store, KeyStores::new(token.clone(), configured), clock, settings)?);
        let of_members = config.token.together.members.iter();
        ops.read_pins_with(Box::new(pins::Configured {
            source: config.token.pin.clone(),
            members: of_members.filter_map(|member| Some((member.name.clone(), member.pin.clone()?))).collect(),
            marks: token::Marks::at(&config.token.pin_marks),
        }));
        let index = Index::new(&audit_directory(&config));
        let secrets = TokenSecrets { token: token.clone(), session_keys: ops.session_keys().clone() };
        let settings = audit_settings(&config);
        let trail = Trail { dir: settings.dir, arn: settings.trail_arn };
        let audit_keys = Arc::new(AuditKeys::new(
            token.clone(),
            ops.store().clone(),
            journal.clone(),
            trail,
            config.token.generate_deadline,
        ));
        let audited = audit_settings(&config);
        let anchors = Arc::new(anchors::Anchors {
            token: token.clone(),
            signer: audit_keys.clone(),
            journal: journal.clone(),
            dir: audited.dir,
            trail_arn: audited.trail_arn,
            deployment: ops.store().deployment_id().to_owned(),
            in_token: config.audit.anchor_in_token,
            timestamp_url: config.audit.timestamp_url.clone(),
            state: anchors::State::default(),
        });
        ops.keep_audit_keys_with(Box::new(audit_keys::Office(audit_keys.clone())));
        ops.show_contexts_as(match config.audit.encryption_context {
            EncryptionContextMode::Plain => ops::ContextForm::Plain,
            EncryptionContextMode::Hmac => ops.hashed_contexts(),
            EncryptionContextMode::KeysOnly => ops::ContextForm::KeysOnly,
        });
        let info = token.info();
        let sealing = sealing::Sealing::new(&config, journal.clone(), audit_keys.clone());
        audit_keys.cover_with(Arc::new(sealing.clone()));
        ops.keep_audit_with(Box::new(sealing.clone()));
        let services = Arc::new(Services {
            ops,
            journal,
            signer: audit_keys.clone(),
            authenticator: Authenticator::new(authn::Settings {
                accepted_regions: accepted_regions(&config),
                debug_signature_errors: config.authn.debug_signature_errors,
            }),
            secrets: Box::new(secrets),
            federation: Box::new(Oidc::new(KeySets::new(Arc::new(issuer_keys::IssuerKeys)))),
            strangers: Strangers::new(STRANGERS),
            rules: Rules {
                operator: OperatorCommands(config.operator.allow.iter().cloned().collect::<BTreeSet<_>>()),
                hide_policy_type: config.authz.hide_policy_type,
                grants_suffice_cross_account: config.authz.grants_suffice_cross_account,
            },
            metrics,
            streams: Streams::new(),
            audit_dir: audit_directory(&config),
            token_deadline: config.token.deadline,
            now: now_ms,
            token_serial: info.serial,
            token_slot: info.slot,
        });
        let checkpoints =
            Arc::new(Checkpoints::new(services.journal.clone(), services.signer.clone(), recovery.signed.clone()));
        let exports = audit_office::Exports::new(&config, &services, checkpoints.clone());
        services.ops.read_audit_with(Box::new(audit_office::Office::new(&services, &config, index.clone(), exports)));
        let boot_seq = recovery.last_seq.map_or(0, |seq| seq + 1);
        audit_keys.cover_with(checkpoints.coverer());
        let app = App { config, services, token, boot_seq, audit_keys, sealing, index, anchors, checkpoints };
        last_use::begin(&app, recovery.last_seq.unwrap_or(0))?;
        settle::at_start(&app, recovery, options).await?;
        app.audit_keys.begin().await?;
        app.anchors.at_start().await?;
        Ok(app)
    }

    /// One operator's request through the same pipeline as every other.
    pub async fn operate(
        &self,
        request: OperatorRequest,
        os_user_id: u32,
        progress: Arc<Progress>,
    ) -> Result<OperatorResponse, Told> {
        let confirms = matches!(request, OperatorRequest::SweeperConfirm { .. });
        let answer = operator_socket::operate(&self.services, request, os_user_id, progress).await;
        if confirms && answer.is_ok() {
            // Nobody serves: without this the next start would be in doubt again.
            let _ = clock_file::write(&self.config.server.state_dir, now_ms());
        }
        answer
    }

    /// Ends an instance that was opened for one command.
    pub async fn close(self) {
        // What it did is signed now, not when somebody serves again. A failure is logged already, and the next start tries.
        let _ = self.checkpoints.write().await;
        self.services.journal.close();
        self.services.ops.keystore().close();
        self.token.close();
        self.audit_keys.close();
    }

    fn call(&self) -> CallContext {
        system_call("start", self.config.token.generate_deadline)
    }
}

pub use crate::http::operator::Told;

/// The store's lock first, then the journal's: whoever holds them serves this directory.
fn open_files(config: &Config, options: &StartOptions) -> Result<Opened, AppError> {
    private_directory(&config.server.state_dir)?;
    let lock = Store::lock(&config.server.state_dir)?;
    let settings = audit::Settings { accept_loss: options.accept_loss.clone(), ..audit_settings(config) };
    audit::room(&settings)?;
    let (journal, recovery) = Journal::open(settings)?;
    Ok(Opened { lock, journal, recovery })
}

fn audit_settings(config: &Config) -> audit::Settings {
    let here = &config.server.locality;
    let audit = &config.audit;
    audit::Settings {
        dir: audit.dir.join(&audit.trail),
        trail_arn: format!("arn:aws:cloudtrail:{}:{}:trail/{}", here.region, here.account, audit.trail),
        region: here.region.to_string(),
        account: here.account.to_string(),
        segment_bytes: audit.segment_bytes,
        segment_age: audit.segment_age,
        refuse_below_free: f64::from(audit.refuse_below_free_percent) / 100.0,
        warn_below_free: f64::from(audit.warn_below_free_percent) / 100.0,
        reserve_bytes: audit.reserve_bytes,
        accept_loss: None,
        deadline: audit.deadline,
    }
}

/// Opens the token: one login with the PIN from its source. Blocking calls stay off the runtime's threads.
async fn connect(config: &Config) -> Result<Token, AppError> {
    for warning in config.token.pin.warnings() {
        tracing::warn!("{warning}");
    }
    let pin = config.token.pin.read()?;
    let settings = token::Settings {
        module: config.token.module.clone(),
        selector: selector(&config.token.selector),
        expect_serial: None,
        profile: profile(config.token.profile.as_deref())?,
        workers: config.token.workers,
        queue: config.token.queue,
        generate_deadline: config.token.generate_deadline,
        pin_marks: config.token.pin_marks.clone(),
        retry: retry(&config.token),
        hang_grace: config.token.hang_grace,
        isolation: isolation(config, &config.token.isolation, &config.token.environment),
    };
    if !config.token.together.members.is_empty() {
        return members::open(config, settings, pin).await;
    }
    match tokio::task::spawn_blocking(move || Token::open(settings, pin)).await {
        Ok(opened) => opened.map_err(|error| pins::refused(error, &config.token.pin, None)),
        Err(error) => Err(AppError::Token(format!("opening the token failed: {error}"))),
    }
}

fn retry(token: &config::Token) -> token::Retry {
    token::Retry { first: token.retry_first, longest: token.retry_longest }
}

/// A worker is this program again, unless the configuration names another; it logs as the service does.
fn isolation(config: &Config, isolation: &Isolation, environment: &BTreeMap<String, String>) -> token::Isolation {
    let Isolation::Process { command } = isolation else { return token::Isolation::InProcess };
    let own = || {
        let program = "/proc/self/exe".to_owned();
        let log = ["--log-level", config.log.level.as_str(), "--log-format", config.log.format.as_str()];
        std::iter::once(program).chain(["token-worker"].into_iter().chain(log).map(str::to_owned)).collect()
    };
    let mut words = command.clone().unwrap_or_else(own).into_iter().map(std::ffi::OsString::from);
    token::Isolation::Process(token::WorkerCommand {
        program: words.next().unwrap_or_default(),
        arguments: words.collect(),
        environment: environment.clone(),
    })
}

fn selector(selector: &TokenSelector) -> token::Selector {
    token::Selector {
        label: selector.label.clone(),
        serial: selector.serial.clone(),
        model: selector.model.clone(),
        manufacturer: selector.manufacturer.clone(),
    }
}

fn profile(path: Option<&Path>) -> Result<token::Profile, AppError> {
    let Some(path) = path else { return Ok(token::Profile::default()) };
    let text = std::fs::read_to_string(path)
        .map_err(|e| AppError::Profile(format!("cannot read the token profile `{}`: {e}", path.display())))?;
    toml::from_str(&text)
        .map_err(|e| AppError::Profile(format!("the token profile `{}` is not valid: {e}", path.display())))
}

/// The ARNs of an instance never change: what the store was made for has to be what the configuration says.
fn same_deployment(store: &Store, config: &Config) -> Result<(), AppError> {
    let snapshot = store.snapshot();
    let here = &config.server.locality;
    match &snapshot.deployment {
        Some(made) if made.account == here.account && made.region == here.region => Ok(()),
        Some(made) => Err(AppError::Refused(format!(
            "the store was made for account {} in {}, the configuration says account {} in {}",
            made.account, made.region, here.account, here.region
        ))),
        None => Err(AppError::Refused("the store is not finished: `hsm-bridge init` was interrupted".to_owned())),
    }
}

fn accepted_regions(config: &Config) -> Vec<String> {
    let own = std::iter::once(&config.server.locality.region);
    own.chain(&config.server.accepted_regions).map(ToString::to_string).collect()
}

/// 0700, ours; made where it is missing.
fn private_directory(path: &Path) -> Result<(), AppError> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    let told = |e: std::io::Error| AppError::Io(format!("the state directory `{}`: {e}", path.display()));
    if !path.exists() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(told)?;
    }
    let mode = std::fs::metadata(path).map_err(told)?.mode();
    if mode & 0o077 != 0 {
        return Err(AppError::Refused(format!(
            "`{}` is open to others (mode {:04o}): chmod 0700 it",
            path.display(),
            mode & 0o7777
        )));
    }
    Ok(())
}

fn system_call(name: &str, deadline: Duration) -> CallContext {
    CallContext { principal: "service".into(), deadline: Instant::now() + deadline, request_id: name.into() }
}

/// Milliseconds since the epoch.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Whether the state directory has a store.
pub fn store_exists(config: &Config) -> bool {
    crate::store::database_path(&config.server.state_dir).exists()
}

/// `<audit.dir>/<trail>`: what `audit tail` and `audit verify` take by default.
pub fn audit_directory(config: &Config) -> PathBuf {
    config.audit.dir.join(&config.audit.trail)
}
