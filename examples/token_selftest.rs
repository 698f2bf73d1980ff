//! The token contract: checks of the token layer against a real token, one line each: `ok NAME` or `FAILED NAME: why`. A
//! process of its own, because a PKCS#11 module is state of the whole process. `tests/token_contract.rs` makes the tokens,
//! runs it, and knows which checks fail on which token.
//!
//! `token_selftest SCENARIO MODULE VARIABLE=FILE LABEL PIN`; the variable names the module's configuration (SOFTHSM2_CONF)
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::print_stdout)]
#![allow(unsafe_code, reason = "one scenario closes all sessions behind the bridge's back")]

use std::collections::BTreeMap;
use std::future::Future;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::{aead, digest, signature};
use hsm_bridge::secret::{SecretBytes, SecretString};
use hsm_bridge::token::*;
use x509_cert::der::Decode;
use x509_cert::spki::SubjectPublicKeyInfoRef;

#[path = "token_selftest/keys.rs"]
mod keys;
#[path = "token_selftest/measure.rs"]
mod measure;
#[path = "token_selftest/officer.rs"]
mod officer;
#[path = "token_selftest/stores.rs"]
mod stores;
#[path = "token_selftest/trouble.rs"]
mod trouble;

type Checked = Result<(), String>;

struct Bench {
    module: PathBuf,
    /// The module's environment variable and the file that it names.
    variable: String,
    conf: PathBuf,
    label: String,
    pin: String,
    /// Of rejected PINs. One right PIN of 256 looks like a rejected one: where a check does not need the marks, none are left.
    marks: PathBuf,
    failed: AtomicBool,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [scenario, module, environment, label, pin] = arguments.as_slice() else {
        eprintln!("usage: token_selftest SCENARIO MODULE VARIABLE=FILE LABEL PIN");
        std::process::exit(2);
    };
    // Shown with a check that fails.
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::INFO).with_ansi(false).init();
    let (variable, conf) = environment.split_once('=').unwrap();
    apply_environment(&BTreeMap::from([(variable.to_owned(), conf.to_owned())]));
    let bench = Bench {
        module: module.into(),
        variable: variable.to_owned(),
        conf: conf.into(),
        label: label.clone(),
        pin: pin.clone(),
        marks: Path::new(conf).with_file_name("pin-marks"),
        failed: AtomicBool::new(false),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        match scenario.as_str() {
            "main" => bench.main().await,
            "wrong-pin" => bench.wrong_pin().await,
            "two-tokens" => bench.two_tokens().await,
            "queue" => bench.queue().await,
            "logged-out" => bench.logged_out().await,
            "gone" => bench.gone().await,
            "officer" => bench.officers_tools().await,
            "inventory" => bench.inventories().await,
            "short-ids" => bench.short_ids().await,
            "stores" => bench.stores().await,
            "no-pin" => bench.no_pin().await,
            "pin" => bench.new_pin().await,
            "init-pin" => bench.init_pin(),
            "race" => bench.race(),
            "measure" => bench.measure().await,
            other => panic!("no scenario `{other}`"),
        }
    });
    std::io::stdout().flush().unwrap();
    exit_now(i32::from(bench.failed.load(Ordering::Relaxed)));
}

fn ctx(principal: &str) -> CallContext {
    ctx_until(principal, Instant::now() + Duration::from_secs(60))
}

fn ctx_until(principal: &str, deadline: Instant) -> CallContext {
    CallContext { principal: principal.into(), deadline, request_id: "test".into() }
}

fn material(n: u8) -> MaterialId {
    MaterialId { id: [n; 16], generation: 0 }
}

fn key_ref(material: MaterialId, generated: &Generated) -> KeyRef {
    KeyRef::Kms { material, fingerprint: generated.fingerprint.as_slice().into() }
}

fn secret(bytes: &[u8]) -> SecretBytes {
    SecretBytes::new(bytes.to_vec())
}

fn class_is<T: std::fmt::Debug>(result: Result<T, TokenError>, class: ErrorClass) -> Checked {
    match result {
        Err(error) if error.class == class => Ok(()),
        other => Err(format!("expected {class:?}, got {other:?}")),
    }
}

fn want(condition: bool, otherwise: &str) -> Checked {
    condition.then_some(()).ok_or_else(|| otherwise.to_owned())
}

fn text(error: TokenError) -> String {
    error.to_string()
}

/// Verifies with code that is not the token's.
fn verified(
    spki: &[u8],
    algorithm: &'static dyn signature::VerificationAlgorithm,
    message: &[u8],
    signed: &[u8],
) -> Checked {
    let info = SubjectPublicKeyInfoRef::from_der(spki).map_err(|error| error.to_string())?;
    let key = info.subject_public_key.as_bytes().ok_or("odd bit string")?;
    let key = signature::UnparsedPublicKey::new(algorithm, key);
    key.verify(message, signed).map_err(|_| "the signature does not verify".to_owned())?;
    let mut broken = message.to_vec();
    broken[0] ^= 1;
    want(key.verify(&broken, signed).is_err(), "the signature verifies for another message")
}

/// Without what some tokens list beside keys: their mechanisms and profiles.
fn is_stored(class: Option<&str>) -> bool {
    !matches!(class, Some("CKO_MECHANISM" | "CKO_PROFILE" | "CKO_HW_FEATURE"))
}

fn hashed(hash: Hash, message: &[u8]) -> SecretBytes {
    let algorithm = match hash {
        Hash::Sha224 => &digest::SHA224,
        Hash::Sha256 => &digest::SHA256,
        Hash::Sha384 => &digest::SHA384,
        Hash::Sha512 => &digest::SHA512,
    };
    secret(digest::digest(algorithm, message).as_ref())
}

impl Bench {
    fn settings(&self) -> Settings {
        Settings {
            module: self.module.clone(),
            selector: Selector { label: Some(self.label.clone()), ..Selector::default() },
            expect_serial: None,
            profile: Profile::default(),
            workers: 2,
            queue: 1024,
            generate_deadline: Duration::from_secs(60),
            pin_marks: self.marks.clone(),
            retry: Retry::default(),
            hang_grace: Duration::from_secs(30),
            isolation: Isolation::InProcess,
        }
    }

    fn open(&self, settings: Settings) -> Result<Token, TokenError> {
        Token::open(settings, SecretString::new(self.pin.clone()))
    }

    async fn check(&self, name: &str, check: impl Future<Output = Checked>) {
        self.forget_marks();
        let checked = check.await;
        self.forget_marks();
        match checked {
            Ok(()) => println!("ok {name}"),
            Err(why) => {
                println!("FAILED {name}: {why}");
                self.failed.store(true, Ordering::Relaxed);
            }
        }
    }

    fn forget_marks(&self) {
        let _ = std::fs::remove_dir_all(&self.marks);
    }

    /// Another process's work on the same token.
    fn officer(&self, arguments: &[&str]) -> Checked {
        let output = Command::new("pkcs11-tool")
            .arg("--module")
            .arg(&self.module)
            .args(["--token-label", &self.label, "--login", "--pin", &self.pin])
            .args(arguments)
            .output()
            .map_err(|error| format!("pkcs11-tool does not start: {error}"))?;
        want(
            output.status.success(),
            &format!("pkcs11-tool {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)),
        )
    }
}
