//! The command line. Commands that read or change keys, identities or the log go to the running server over the operator
//! socket; with no server running they take its locks and run the same pipeline here.

mod alias;
mod args;
mod audit;
mod audit_key;
mod aws_data_path;
mod ciphertext;
mod iam;
mod key;
mod log;
mod policy;
mod progress;
mod reencrypt;
mod rotate;
mod show;
mod token;
mod verify;
mod verify_url;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Parser;

use crate::app::dev::{Dev, DevOptions};
use crate::app::serve::serve;
use crate::app::{self, App, AppError, Asked, StartOptions, ask_running, init};
use crate::config::Config;
use crate::ops::{OperatorRequest, OperatorResponse, Progress};
use args::{AccessKeyCommand, Arguments, AuditCommand, CiphertextCommand, Command, StoreCommand};
use key::KeyRequest;
use progress::Bar;

/// Usage errors of the command line (sysexits.h EX_USAGE).
const USAGE: u8 = 64;

/// A command that failed: what to print, and the exit code.
pub struct Failed {
    message: String,
    code: u8,
}

impl From<AppError> for Failed {
    fn from(error: AppError) -> Self {
        Failed { code: error.exit_code(), message: error.to_string() }
    }
}

impl Failed {
    fn new(code: u8, message: impl Into<String>) -> Self {
        Self { message: message.into(), code }
    }
}

/// Parses the arguments, runs the command and ends the process. Exit handlers do not run: a PKCS#11 library that stays
/// loaded may crash in them.
pub fn main() -> ! {
    let code = match Arguments::try_parse() {
        Ok(arguments) => match run(arguments) {
            Ok(code) => code,
            Err(failed) => {
                eprintln!("error: {}", failed.message);
                failed.code
            }
        },
        Err(error) => {
            let _ = error.print();
            if error.use_stderr() { USAGE } else { 0 }
        }
    };
    let _ = std::io::stdout().flush();
    app::exit_now(i32::from(code))
}

fn run(arguments: Arguments) -> Result<u8, Failed> {
    let config = ConfigPath(arguments.config);
    match arguments.command {
        // These need no lock, no token and no configuration where a path is given.
        Command::Ciphertext(CiphertextCommand::Inspect { file, json }) => ciphertext::inspect(&file, json),
        Command::Policy(command) => command.run(&config),
        Command::Audit(AuditCommand::Verify(options)) => options.run(&config),
        Command::Audit(AuditCommand::Serve(options)) => {
            let dir = config.audit_dir(options.dir.or(options.bundle))?;
            app::harden();
            in_runtime(async move { app::audit_serve::serve(&dir, options.listen).await })?;
            Ok(0)
        }
        Command::Audit(AuditCommand::Prove(options)) => options.run(&config),
        Command::Audit(AuditCommand::Consistency(options)) => options.run(&config),
        Command::Audit(AuditCommand::Report(options)) => audit::report(&config.load()?, *options),
        Command::Audit(AuditCommand::AttestReview(options)) => audit::attest_review(&config.load()?, *options),
        Command::Audit(AuditCommand::Ceremony(options)) => audit::ceremony(&config.load()?, *options),
        Command::Audit(AuditCommand::Repair { dir }) => log::repair(&config.audit_dir(dir)?),
        Command::Audit(AuditCommand::Key(command)) => command.run(&config),
        Command::Audit(AuditCommand::AwsDataPath { out, endpoint }) => aws_data_path::write(&out, &endpoint),
        Command::Audit(AuditCommand::Prune { dry_run, json }) => {
            operate(&config.load()?, OperatorRequest::AuditPrune { dry_run }, json)
        }
        Command::Audit(AuditCommand::Tail(options)) => log::tail(&config.audit_dir(options.dir.clone())?, &options),

        Command::Audit(AuditCommand::Hash { value, json }) => {
            operate(&config.load()?, OperatorRequest::AuditHash { value }, json)
        }
        Command::Audit(AuditCommand::Export(options)) => {
            let json = options.json;
            operate(&config.load()?, OperatorRequest::AuditExport(log::export(*options)?), json)
        }

        Command::TokenWorker { log_level, log_format } => {
            app::harden();
            app::log_words_to_stderr(&log_level, &log_format);
            app::worker_on_stdin()
        }
        Command::Dev(options) => dev(options),
        Command::Serve { accept_store_rollback, accept_loss } => {
            let config = config.load()?;
            prepare(&config);
            let options = StartOptions { accept_store_rollback, accept_loss, ..StartOptions::default() };
            in_runtime(serve(config, options, |_| Ok(())))?;
            Ok(0)
        }
        Command::Init(options) => initialise(*options, config),
        Command::Doctor { json } => operate(&config.load()?, OperatorRequest::Doctor, json),
        Command::Token(command) => {
            let (request, json) = command.request()?;
            operate(&config.load()?, request, json)
        }
        Command::Key(command) => {
            let KeyRequest { request, json, out } = command.request()?;
            match out {
                Some(out) => attest(&config.load()?, request, &out, json),
                None => operate(&config.load()?, request, json),
            }
        }
        Command::Alias(command) => {
            let (request, json) = command.request();
            operate(&config.load()?, request, json)
        }
        Command::Rotate(command) => {
            let (request, json) = command.request();
            operate(&config.load()?, request, json)
        }
        Command::Reencrypt(options) => in_any_runtime(reencrypt::run((*options).into())),
        Command::AccessKey(AccessKeyCommand::Create { user, json }) => {
            operate(&config.load()?, OperatorRequest::AccessKeyCreate { user }, json)
        }
        Command::AccessKey(AccessKeyCommand::List { json }) => {
            operate(&config.load()?, OperatorRequest::AccessKeyList, json)
        }
        Command::AccessKey(AccessKeyCommand::Disable { id, json }) => {
            operate(&config.load()?, OperatorRequest::AccessKeyDisable { id }, json)
        }
        Command::Iam(command) => command.run(&config.load()?),
        Command::Store(StoreCommand::Backup { path, json }) => {
            operate(&config.load()?, OperatorRequest::StoreBackup { path: absolute(path)? }, json)
        }
        Command::Store(StoreCommand::Restore { path, ticket, json }) => {
            restore(config.load()?, absolute(path)?, ticket, json)
        }
        Command::Sweeper { confirm: Some(ticket), json } => {
            operate(&config.load()?, OperatorRequest::SweeperConfirm { ticket }, json)
        }
        Command::Sweeper { confirm: None, json } => operate(&config.load()?, OperatorRequest::SweeperShow, json),
    }
}

fn operate(config: &Config, request: OperatorRequest, json: bool) -> Result<u8, Failed> {
    let response = answer(config, request)?;
    show::response(&response, json).map_err(|e| Failed::new(74, e.to_string()))?;
    Ok(match &response {
        // That token and store do not agree is an answer, and a script has to see it.
        OperatorResponse::Reconciliation { report } if report.get("ok") == Some(&false.into()) => 1,
        _ => 0,
    })
}

/// The running server does it; with none running, this process.
fn answer(config: &Config, request: OperatorRequest) -> Result<OperatorResponse, Failed> {
    let mut bar = Bar::default();
    let answer = match ask_running(&config.server.state_dir, &request, |done, total| bar.show(done, total))? {
        Asked::Answered(answer) => answer,
        Asked::NobodyThere => {
            prepare(config);
            let config = config.clone();
            let uid = rustix::process::geteuid().as_raw();
            // Only this command may meet another token than the known one.
            let accept_token_replacement = match &request {
                OperatorRequest::TokenReplace { ticket, .. } => Some(ticket.clone()),
                _ => None,
            };
            let retry_pin = match &request {
                OperatorRequest::TokenPin { token, retry: true, .. } => {
                    let name = token.as_deref().unwrap_or("default");
                    (name == "default" || name.starts_with("default/")).then(|| name.to_owned())
                }
                _ => None,
            };
            let options = StartOptions { accept_token_replacement, retry_pin, ..StartOptions::default() };
            let bar = &mut bar;
            in_runtime(async move {
                let app = App::open(config, &options).await?;
                let progress = Arc::new(Progress::default());
                let answer = progress::watch(app.operate(request, uid, progress.clone()), &progress, bar).await;
                app.close().await;
                Ok(answer)
            })?
        }
    };
    answer.map_err(|told| Failed::new(1, format!("{}: {}", told.code, told.message)))
}

fn attest(config: &Config, request: OperatorRequest, out: &Path, json: bool) -> Result<u8, Failed> {
    let response = answer(config, request)?;
    if let OperatorResponse::Attestation { statement, signature, public_key, .. } = &response {
        let signature = STANDARD
            .decode(signature)
            .map_err(|e| Failed::new(1, format!("the answer's signature is not base64: {e}")))?;
        let files = key::write_attestation(out, statement, &signature, public_key)?;
        if !json {
            let [statement, signature, public_key] = files.map(|path| path.display().to_string());
            println!("statement   {statement}\nsignature   {signature}\npublic key  {public_key}");
            return Ok(0);
        }
    }
    show::response(&response, json).map_err(|e| Failed::new(74, e.to_string()))?;
    Ok(0)
}

/// A store that is lost cannot be opened: the backup is put in its place.
fn restore(config: Config, path: PathBuf, ticket: String, json: bool) -> Result<u8, Failed> {
    if app::store_exists(&config) {
        return operate(&config, OperatorRequest::StoreRestore { path, ticket }, json);
    }
    prepare(&config);
    let shown = path.display().to_string();
    in_runtime(async move { init::restore_missing(config, &path, &ticket).await })?;
    println!("restored `{shown}` in place of the missing store");
    Ok(0)
}

fn initialise(options: args::InitOptions, config: ConfigPath) -> Result<u8, Failed> {
    let path = config.0.ok_or_else(|| Failed::new(USAGE, "name the configuration to write with --config FILE"))?;
    let text = options.configuration();
    let parsed = if path.exists() {
        Config::load(&path).map_err(AppError::from)?
    } else {
        let base = std::path::absolute(&path).map_err(|e| Failed::new(74, e.to_string()))?;
        let parsed = Config::parse(&text, base.parent().unwrap_or(Path::new("/"))).map_err(AppError::from)?;
        write_config(&path, &text)?;
        parsed
    };
    prepare(&parsed);
    let key = in_runtime(async move { init::create(&parsed, "init").await })?;
    show::first_key(&path, &key, options.json).map_err(|e| Failed::new(74, e.to_string()))?;
    Ok(0)
}

fn write_config(path: &Path, text: &str) -> Result<(), Failed> {
    use std::os::unix::fs::OpenOptionsExt;
    let told = |e: std::io::Error| Failed::new(74, format!("writing `{}`: {e}", path.display()));
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(told)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(told)
}

fn dev(options: args::DevArguments) -> Result<u8, Failed> {
    let options = DevOptions {
        dir: options.dir,
        listen: options.listen,
        account: options.account,
        region: options.region,
        env_file: options.env_file,
        tls: options.tls,
        custom_tokens: usize::from(options.custom_tokens),
        decrypt_alias_mode: options.decrypt_alias_mode,
        custom_store_key_specs: options.custom_store_key_specs,
        config_extra: options.config_extra,
    };
    let dev = Dev::prepare(options)?;
    prepare(dev.config());
    in_runtime(dev.run())?;
    Ok(0)
}

/// What has to happen before any thread exists.
fn prepare(config: &Config) {
    app::harden();
    app::apply_environment(&config.token.environment);
    app::log_to_stderr(&config.log);
}

fn in_runtime<T>(work: impl Future<Output = Result<T, AppError>>) -> Result<T, Failed> {
    in_any_runtime(async { Ok(work.await?) })
}

fn in_any_runtime<T>(work: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
    // The other half is for session workers and the audit log's writer, which are threads of their own: more threads here
    // would only take work from each other.
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads((cpus / 2).max(1))
        .enable_all()
        .build()
        .map_err(|e| Failed::new(71, format!("cannot start: {e}")))?;
    let done = runtime.block_on(work);
    // Work that outlives its answer is given a moment, and no more.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    done
}

fn absolute(path: PathBuf) -> Result<PathBuf, Failed> {
    std::path::absolute(&path).map_err(|e| Failed::new(USAGE, format!("`{}`: {e}", path.display())))
}

/// From `--config` or `HSM_BRIDGE_CONFIG`.
pub struct ConfigPath(Option<PathBuf>);

impl ConfigPath {
    fn load(&self) -> Result<Config, Failed> {
        let path = self.0.as_deref().ok_or_else(|| {
            Failed::new(USAGE, "no configuration: name one with --config FILE or in HSM_BRIDGE_CONFIG")
        })?;
        Ok(Config::load(path).map_err(AppError::from)?)
    }

    fn audit_dir(&self, given: Option<PathBuf>) -> Result<PathBuf, Failed> {
        match given {
            Some(dir) => Ok(dir),
            None => Ok(app::audit_directory(&self.load()?)),
        }
    }
}

#[cfg(test)]
mod tests;
