//! `dev`: a self-contained instance for trying things out. A SoftHSM token, a store and a root access key in one
//! directory, and a file of shell exports once it answers. Not for production: PIN and secret lie beside each other.

mod custom_tokens;

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use custom_tokens::CustomTokens;

use super::init::{self, FirstKey};
use super::serve::{Ready, serve};
use super::{AppError, StartOptions, audit_directory};
use crate::config::{Config, DecryptAliasMode};
use crate::http::tls;
use crate::ids::spec::KeySpec;
use crate::ids::{AccountId, Region};
use crate::secret::SecretString;
use crate::store::{Store, database_path};

const MODULES: &[&str] = &[
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
];
const TOKEN_LABEL: &str = "hsm-bridge-dev";
const MARKER: &str = "made-by-dev";
const CONFIG: &str = "hsm-bridge.toml";
const CREDENTIALS: &str = "credentials";
const CLUSTER: &str = "cluster-id";

#[derive(Debug, Clone)]
pub struct DevOptions {
    /// `None`: a temporary directory, removed at the end.
    pub dir: Option<PathBuf>,
    pub listen: SocketAddr,
    pub account: Option<AccountId>,
    pub region: Option<Region>,
    pub env_file: Option<PathBuf>,
    pub tls: bool,
    /// Further tokens, for custom key stores, up to 16. A directory keeps those that it has.
    pub custom_tokens: usize,
    pub decrypt_alias_mode: Option<DecryptAliasMode>,
    pub custom_store_key_specs: Vec<KeySpec>,
    /// Text for the end of the written configuration.
    pub config_extra: Option<PathBuf>,
}

/// A prepared directory: everything on disk but the instance itself.
pub struct Dev {
    dir: PathBuf,
    temporary: bool,
    options: DevOptions,
    config: Config,
    custom: CustomTokens,
}

impl Dev {
    /// Directory, token and configuration. Runs before any thread is started, so that the library's environment can be
    /// set.
    pub fn prepare(mut options: DevOptions) -> Result<Dev, AppError> {
        let (dir, temporary) = match &options.dir {
            Some(dir) => (absolute(dir)?, false),
            None => (temporary_directory()?, true),
        };
        own_directory(&dir)?;
        let state = dir.join("state");
        if state.exists() {
            // Before anything is written: whoever serves this directory keeps its configuration.
            drop(Store::lock(&state)?);
        }
        if !dir.join(MARKER).exists() {
            make_token(&dir)?;
            replace(&dir.join(MARKER), b"hsm-bridge dev: not for production\n")?;
        }
        if !dir.join(CLUSTER).exists() {
            replace(&dir.join(CLUSTER), custom_tokens::random_cluster_id()?.as_str().as_bytes())?;
        }
        let module = module()?;
        let custom = CustomTokens::prepare(&dir, &module, options.custom_tokens)?;
        if options.tls && !dir.join("tls/server.pem").exists() {
            make_certificate(&dir)?;
        }
        remember_locality(&dir, &mut options)?;
        let text = configuration(&dir, &module, &options, &custom)?;
        replace(&dir.join(CONFIG), text.as_bytes())?;
        let config = Config::load(&dir.join(CONFIG))?;
        Ok(Dev { dir, temporary, options, config, custom })
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Makes the instance if it is new, and serves. The same directory gives the same credentials.
    pub async fn run(self) -> Result<(), AppError> {
        let finished = self.dir.join(CREDENTIALS);
        if !finished.exists() {
            // A store without credentials was interrupted while it was made: nobody was told of it.
            let unfinished = database_path(&self.config.server.state_dir);
            if unfinished.exists() {
                return Err(AppError::Refused(format!(
                    "`{}` was interrupted while it was made: remove it and start again",
                    self.dir.display()
                )));
            }
            let FirstKey { id, secret } = init::create(&self.config, "dev").await?;
            replace(&finished, format!("{id} {}\n", secret.expose()).as_bytes())?;
        }
        let ready = |ready: &Ready| self.announce(ready);
        let served = serve(self.config.clone(), StartOptions::default(), ready).await;
        if self.temporary {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
        served
    }

    fn announce(&self, ready: &Ready) -> Result<(), AppError> {
        let exports = self.exports(ready)?;
        if let Some(file) = &self.options.env_file {
            replace(file, exports.expose().as_bytes())?;
        }
        let mut out = std::io::stdout().lock();
        let text = format!(
            "# hsm-bridge dev: NOT FOR PRODUCTION. Keys, PIN and credentials are in {}\n{}",
            self.dir.display(),
            exports.expose()
        );
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| AppError::Io(e.to_string()))
    }

    fn exports(&self, ready: &Ready) -> Result<SecretString, AppError> {
        let credentials = read(&self.dir.join(CREDENTIALS))?;
        let (id, secret) = credentials
            .trim()
            .split_once(' ')
            .ok_or_else(|| AppError::Refused(format!("`{}` is damaged", self.dir.join(CREDENTIALS).display())))?;
        let address = ready.addresses.first().copied().unwrap_or(self.options.listen);
        let url = if self.options.tls {
            format!("https://localhost:{}", address.port())
        } else {
            format!("http://{address}")
        };
        let here = &self.config.server.locality;
        let dir = |name: &str| self.dir.join(name).display().to_string();
        let mut pairs = vec![
            ("AWS_ENDPOINT_URL", url.clone()),
            ("AWS_ENDPOINT_URL_KMS", url),
            ("AWS_ACCESS_KEY_ID", id.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", secret.to_owned()),
            ("AWS_REGION", here.region.to_string()),
            ("AWS_DEFAULT_REGION", here.region.to_string()),
        ];
        if self.options.tls {
            pairs.push(("AWS_CA_BUNDLE", dir("tls/server.pem")));
        }
        pairs.extend([
            ("HSM_BRIDGE_ACCOUNT_ID", here.account.to_string()),
            ("HSM_BRIDGE_AUDIT_DIR", audit_directory(&self.config).display().to_string()),
            ("SOFTHSM2_CONF", dir("softhsm2.conf")),
            ("HSM_BRIDGE_PKCS11_MODULE", self.config.token.module.display().to_string()),
            ("HSM_BRIDGE_TOKEN_LABEL", TOKEN_LABEL.to_owned()),
            ("HSM_BRIDGE_PIN_FILE", dir("pin")),
            ("HSM_BRIDGE_CONFIG", dir(CONFIG)),
        ]);
        pairs.extend(self.custom.exports(&self.dir));
        let mut text = String::new();
        for (name, value) in pairs {
            // Quoted for sh: nothing in a value is expanded.
            let _ = writeln!(text, "export {name}='{}'", value.replace('\'', "'\\''"));
        }
        Ok(SecretString::new(text))
    }
}

fn absolute(path: &Path) -> Result<PathBuf, AppError> {
    std::path::absolute(path).map_err(|e| io("the directory", path, &e))
}

fn temporary_directory() -> Result<PathBuf, AppError> {
    let mut random = [0u8; 8];
    getrandom::fill(&mut random).map_err(|e| AppError::Io(format!("no randomness: {e}")))?;
    absolute(&std::env::temp_dir().join(format!("hsm-bridge-dev-{}", hex::encode(random))))
}

/// 0700 and made by `dev`, or new, or empty.
fn own_directory(dir: &Path) -> Result<(), AppError> {
    if !dir.exists() {
        let mut builder = std::fs::DirBuilder::new();
        return builder.recursive(true).mode(0o700).create(dir).map_err(|e| io("the directory", dir, &e));
    }
    let mode = std::fs::metadata(dir).map_err(|e| io("the directory", dir, &e))?.mode();
    if mode & 0o077 != 0 {
        return Err(AppError::Refused(format!(
            "`{}` can be read by others (mode {:04o}): `dev` keeps a PIN and a secret there; chmod 0700 it or name another",
            dir.display(),
            mode & 0o7777
        )));
    }
    let empty = std::fs::read_dir(dir).map_err(|e| io("the directory", dir, &e))?.next().is_none();
    if !empty && !dir.join(MARKER).exists() {
        return Err(AppError::Refused(format!(
            "`{}` was not made by `dev`: name a new or an empty directory",
            dir.display()
        )));
    }
    Ok(())
}

/// A SoftHSM token with a random PIN, made by SoftHSM's own tool.
fn make_token(dir: &Path) -> Result<(), AppError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir.join("tokens"))
        .map_err(|e| io("the token directory", dir, &e))?;
    let conf = format!(
        "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
        dir.join("tokens").display()
    );
    replace(&dir.join("softhsm2.conf"), conf.as_bytes())?;
    let (pin, so_pin) = (random_pin()?, random_pin()?);
    replace(&dir.join("pin"), format!("{}\n", pin.expose()).as_bytes())?;
    replace(&dir.join("so-pin"), format!("{}\n", so_pin.expose()).as_bytes())?;
    softhsm(
        dir,
        &["--init-token", "--free", "--label", TOKEN_LABEL, "--pin", pin.expose(), "--so-pin", so_pin.expose()],
    )
}

/// 24 characters: a KeyStorePassword has 7 to 32.
fn random_pin() -> Result<SecretString, AppError> {
    let mut random = [0u8; 12];
    getrandom::fill(&mut random).map_err(|e| AppError::Io(format!("no randomness: {e}")))?;
    Ok(SecretString::new(hex::encode(random)))
}

fn softhsm(dir: &Path, arguments: &[&str]) -> Result<(), AppError> {
    let output = Command::new("softhsm2-util")
        .args(arguments)
        .env("SOFTHSM2_CONF", dir.join("softhsm2.conf"))
        .stdin(Stdio::null())
        .output()
        .map_err(|e| {
            AppError::Token(format!(
                "cannot run softhsm2-util ({e}): install SoftHSM (Debian: `apt-get install softhsm2`)"
            ))
        })?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        return Err(AppError::Token(format!("softhsm2-util failed: {}", told.trim())));
    }
    Ok(())
}

fn make_certificate(dir: &Path) -> Result<(), AppError> {
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let (certificate, key) = tls::self_signed(&names).map_err(|e| AppError::Listen(e.to_string()))?;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir.join("tls"))
        .map_err(|e| io("the directory", dir, &e))?;
    replace(&dir.join("tls/server.key"), key.as_bytes())?;
    replace(&dir.join("tls/server.pem"), certificate.as_bytes())
}

/// Account and Region are those of the first start; naming others later is an error.
fn remember_locality(dir: &Path, options: &mut DevOptions) -> Result<(), AppError> {
    let before = dir.join("locality");
    if before.exists() {
        let text = read(&before)?;
        let (account, region) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        for (what, wanted, had) in [
            ("account", options.account.as_ref().map(AccountId::as_str), account),
            ("region", options.region.as_ref().map(Region::as_str), region),
        ] {
            if wanted.is_some_and(|wanted| wanted != had) {
                return Err(AppError::Refused(format!("`{}` was made for {what} {had}", dir.display())));
            }
        }
        options.account = account.parse().ok();
        options.region = region.parse().ok();
        return Ok(());
    }
    let account = options.account.get_or_insert_with(|| "111122223333".parse().expect("twelve digits"));
    let region = options.region.get_or_insert_with(|| "us-east-1".parse().expect("a Region's name"));
    replace(&before, format!("{account} {region}\n").as_bytes())
}

fn module() -> Result<PathBuf, AppError> {
    std::env::var_os("HSM_BRIDGE_PKCS11_MODULE")
        .map(PathBuf::from)
        .or_else(|| MODULES.iter().map(PathBuf::from).find(|path| path.exists()))
        .ok_or_else(|| {
            AppError::Token(
                "SoftHSM's library is not found: install it (Debian: `apt-get install softhsm2`)".to_owned(),
            )
        })
}

/// What OpenSC's pkcs11-spy reads, where it is the module: a worker process has no variables that nobody names.
fn spied() -> String {
    let set = |name| Some((name, std::env::var(name).ok()?));
    let quote = |(name, value)| format!(", {name} = {}", toml::Value::String(value));
    ["PKCS11SPY", "PKCS11SPY_OUTPUT"].into_iter().filter_map(set).map(quote).collect()
}

fn configuration(dir: &Path, module: &Path, options: &DevOptions, custom: &CustomTokens) -> Result<String, AppError> {
    let account = options.account.as_ref().map_or("", AccountId::as_str);
    let region = options.region.as_ref().map_or("", Region::as_str);
    let quote = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let path = |name: &str| quote(&dir.join(name).display().to_string());
    let mut text = format!(
        "# Written by `hsm-bridge dev` at each start. Not for production.\n[server]\nstate_dir = {}\naccount = {}\n\
         region = {}\n\n[[listener]]\naddress = {}\n",
        path("state"),
        quote(account),
        quote(region),
        quote(&options.listen.to_string())
    );
    if options.tls {
        let _ = writeln!(text, "certificate = {}\nkey = {}", path("tls/server.pem"), path("tls/server.key"));
    }
    let _ = write!(
        text,
        "\n[metrics]\naddress = \"off\"\n\n[token]\nmodule = {}\nlabel = {}\ncluster_id = {}\npin_file = {}\npin_marks = {}\nenvironment = {{ SOFTHSM2_CONF = {}{} }}\n",
        quote(&module.display().to_string()),
        quote(TOKEN_LABEL),
        quote(read(&dir.join(CLUSTER))?.trim()),
        path("pin"),
        path("pin-marks"),
        path("softhsm2.conf"),
        spied()
    );
    text.push_str(&custom.sections());
    if let Some(mode) = options.decrypt_alias_mode {
        let word = match mode {
            DecryptAliasMode::History => "history",
            DecryptAliasMode::Strict => "strict",
        };
        let _ = writeln!(text, "\n[rotation]\ndecrypt_alias_mode = {}", quote(word));
    }
    if !options.custom_store_key_specs.is_empty() {
        let specs: Vec<String> = options.custom_store_key_specs.iter().map(|spec| quote(spec.as_str())).collect();
        let _ = writeln!(text, "\n[key_stores]\ncustom_store_key_specs = [{}]", specs.join(", "));
    }
    let extra = options.config_extra.as_ref().map(|extra| read(extra)).transpose()?;
    let has_own = |text: &String| toml::from_str::<toml::Table>(text).is_ok_and(|table| table.contains_key("audit"));
    if !extra.as_ref().is_some_and(has_own) {
        // So that the first requests can be looked at with `aws cloudtrail validate-logs` at once.
        text.push_str("\n[audit]\ncheckpoint_seconds = 5\nseal_seconds = 5\ndigest_seconds = 60\n");
    }
    if let (Some(path), Some(extra)) = (&options.config_extra, extra) {
        let _ = write!(text, "\n# From {}\n{extra}", path.display());
    }
    Ok(text)
}

fn read(path: &Path) -> Result<String, AppError> {
    std::fs::read_to_string(path).map_err(|e| io("reading", path, &e))
}

/// 0600, whole or not at all.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), AppError> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let new = PathBuf::from(name);
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&new, path));
    written.map_err(|e| {
        let _ = std::fs::remove_file(&new);
        io("writing", path, &e)
    })
}

fn io(what: &str, path: &Path, error: &std::io::Error) -> AppError {
    AppError::Io(format!("{what} `{}`: {error}", path.display()))
}
