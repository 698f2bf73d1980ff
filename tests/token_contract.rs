//! The token contract against tokens of independent make: makes them, and runs `examples/token_selftest.rs` in processes of
//! its own, since module state is per process. Needs Debian's softhsm2, libnss3 and opensc, and the modules of
//! `tests/kryoptic` (`scripts/test kryoptic` builds it) and `tests/nss-module`.
//!
//! What a token does otherwise stands in its list below; a difference that no longer holds fails the test.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test file; clippy's own setting covers test functions only")]

use std::path::{Path, PathBuf};
use std::process::Command;

const LABEL: &str = "hsm-bridge-test";
const PIN: &str = "1234567";
const SO_PIN: &str = "12345678";

/// The scenarios, how many tokens each wants, and how many checks it has at least.
const CONTRACT: &[(&str, usize, usize)] = &[
    ("main", 1, 53),
    ("wrong-pin", 1, 4),
    ("two-tokens", 2, 3),
    ("queue", 1, 4),
    ("logged-out", 1, 4),
    ("gone", 1, 1),
    ("officer", 1, 20),
    ("inventory", 1, 3),
    ("short-ids", 1, 6),
    ("stores", 2, 14),
    ("pin", 1, 6),
];

/// A check that fails on a token, as it must.
struct Difference {
    scenario: &'static str,
    check: &'static str,
    /// Part of what the check says.
    says: &'static str,
    why: &'static str,
}

const fn differs(scenario: &'static str, check: &'static str, says: &'static str, why: &'static str) -> Difference {
    Difference { scenario, check, says, why }
}

struct Kind {
    /// The module's file.
    module: fn() -> PathBuf,
    /// The environment variable that names its configuration.
    variable: &'static str,
    /// Makes the configuration and this many tokens, and gives the configuration.
    make: fn(&Path, usize) -> PathBuf,
    differences: &'static [Difference],
    /// Scenarios that mean nothing on this token.
    without: &'static [(&'static str, &'static str)],
}

const SOFTHSM: Kind = Kind {
    module: || PathBuf::from("/usr/lib/softhsm/libsofthsm2.so"),
    variable: "SOFTHSM2_CONF",
    make: |directory, count| {
        let (tokens, conf) = (directory.join("tokens"), directory.join("softhsm2.conf"));
        std::fs::create_dir(&tokens).unwrap();
        let text =
            format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", tokens.display());
        std::fs::write(&conf, text).unwrap();
        for _ in 0..count {
            let arguments = ["--init-token", "--free", "--label", LABEL, "--pin", PIN, "--so-pin", SO_PIN];
            run(Command::new("softhsm2-util").env("SOFTHSM2_CONF", &conf).args(arguments));
        }
        conf
    },
    differences: &[
        differs("main", "capability: ML-DSA", "the token has it not", OLD),
        differs("main", "ML_DSA_44 signs with MlDsa", "class Unsupported", OLD),
        differs("main", "ML_DSA_65 signs with MlDsa", "class Unsupported", OLD),
        differs("main", "ML_DSA_87 signs with MlDsa", "class Unsupported", OLD),
        differs(
            "main",
            "capability: OAEP with SHA-256, SHA-384 and SHA-512",
            "the token has it not",
            "SoftHSM2 knows OAEP with SHA-1 only",
        ),
        differs("officer", "ML_DSA_65 of somebody else is adopted and used", "mechanism", OLD),
    ],
    without: &[],
};

const OLD: &str = "SoftHSM2 2.6 is older than ML-DSA";
const NIST: &str = "kryoptic knows NIST's curves only";

const KRYOPTIC: Kind = Kind {
    module: kryoptic,
    variable: "KRYOPTIC_CONF",
    make: |directory, count| {
        let conf = directory.join("kryoptic.toml");
        // One slot more: a token that was never initialised.
        let slots = (1..=count + 1).map(|slot| {
            let file = directory.join(format!("token{slot}.sql"));
            format!("[[slots]]\nslot = {slot}\ndbtype = \"sqlite\"\ndbargs = \"{}\"\n", file.display())
        });
        std::fs::write(&conf, slots.collect::<String>()).unwrap();
        for slot in 1..=count {
            let slot = slot.to_string();
            let tool = |arguments: &[&str]| {
                let mut command = Command::new("pkcs11-tool");
                command.env("KRYOPTIC_CONF", &conf).arg("--module").arg(kryoptic());
                run(command.args(["--slot", &slot, "--so-pin", SO_PIN]).args(arguments));
            };
            tool(&["--init-token", "--label", LABEL]);
            tool(&["--login", "--login-type", "so", "--init-pin", "--pin", PIN]);
        }
        conf
    },
    differences: &[
        differs("main", "capability: secp256k1", "the token has it not", NIST),
        differs("main", "EC_SECP256K1 signs with Ecdsa", "C_GenerateKeyPair", NIST),
        differs("officer", "EC_SECP256K1 with id b005 is adopted and used", "C_GenerateKeyPair failed", NIST),
        differs(
            "wrong-pin",
            "the token counted the wrong PIN",
            "no flag",
            "kryoptic sets CKF_USER_PIN_COUNT_LOW never: it does not count",
        ),
        differs(
            "stores",
            "a token without a user PIN, and one that was never initialised",
            "no token with label ``",
            "a token of kryoptic that was never initialised has a label",
        ),
    ],
    without: &[("gone", "kryoptic keeps its database open: the file may go away, and nothing happens")],
};

const NOT_LOCAL: &str = "NSS says CKA_LOCAL false of the keys that it makes: the bridge destroys such keys";

/// Takes C_Encrypt with room for the output and no other way. Only keys that others made can be used on it.
const NSS: Kind = Kind {
    module: || {
        let path = target().join("libnss_module.so");
        assert!(path.is_file(), "{} is not there: run `cargo build -p nss-module`", path.display());
        path
    },
    variable: "HSM_BRIDGE_NSS_CONF",
    make: |directory, _| {
        let (database, conf) = (directory.join("nss"), directory.join("nss.conf"));
        std::fs::create_dir(&database).unwrap();
        let parameters = format!(
            "configdir='sql:{}' certPrefix='' keyPrefix='' secmod='secmod.db' flags= dbTokenDescription='{LABEL}' minPS=0",
            database.display()
        );
        std::fs::write(&conf, parameters).unwrap();
        let environment = format!("HSM_BRIDGE_NSS_CONF={}", conf.display());
        run(Command::new(harness()).arg("init-pin").arg((NSS.module)()).args([&environment, LABEL, PIN]));
        conf
    },
    differences: &[
        differs("wrong-pin", "the token counted the wrong PIN", "no flag", "NSS does not count wrong PINs"),
        differs("officer", "anchor and attest are made once", "does not protect the key as asked", NOT_LOCAL),
        differs("officer", "the attest key signs", "does not hold the system key", NOT_LOCAL),
        differs("officer", "a second connection knows the system keys", "does not hold the object", NOT_LOCAL),
        differs("officer", "objects are inspected", "[]", NOT_LOCAL),
        differs(
            "officer",
            "a private certificate is nobody's identity",
            "CreateObject",
            "NSS stores no private certificates",
        ),
        differs(
            "officer",
            "RSA_2048 with id b003 is adopted and used",
            "extractable: Some(true)",
            "pkcs11-tool leaves unsaid whether a key may leave the token, and NSS lets it",
        ),
        differs(
            "officer",
            "EC_P256 with id b004 is adopted and used",
            "extractable: Some(true)",
            "pkcs11-tool leaves unsaid whether a key may leave the token, and NSS lets it",
        ),
        differs(
            "officer",
            "EC_SECP256K1 with id b005 is adopted and used",
            "C_GenerateKeyPair failed",
            "NSS 3.87 has none of these",
        ),
        differs("officer", "ED25519 with id b006 is adopted and used", "not supported", "NSS 3.87 has none of these"),
        differs("officer", "ML_DSA_65 of somebody else is adopted and used", "mechanism", "NSS 3.87 has none of these"),
        differs(
            "officer",
            "what is no key of ours is not adopted",
            "expected WrongKey, got Ok(())",
            "NSS keeps one key of two with the same CKA_ID",
        ),
    ],
    without: &[
        ("main", NOT_LOCAL),
        ("two-tokens", "NSS has one database"),
        ("queue", NOT_LOCAL),
        ("logged-out", NOT_LOCAL),
        ("gone", NOT_LOCAL),
        ("inventory", NOT_LOCAL),
        ("short-ids", NOT_LOCAL),
        ("stores", "NSS has one database"),
        ("pin", NOT_LOCAL),
    ],
};

/// Beside this test's own target directory, or where HSM_BRIDGE_KRYOPTIC says.
fn kryoptic() -> PathBuf {
    let named = std::env::var_os("HSM_BRIDGE_KRYOPTIC").map(PathBuf::from);
    let path = named.unwrap_or_else(|| target().join("../kryoptic/debug/libkryoptic_pkcs11.so"));
    assert!(path.is_file(), "{} is not there: run `scripts/test kryoptic`", path.display());
    path.canonicalize().unwrap()
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error} (apt install softhsm2 opensc)"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Kind {
    /// Runs a scenario. Each of its checks must pass, but for the known differences, which must fail as they are known to.
    fn keeps(&self, scenario: &str) {
        let (_, tokens, at_least) = CONTRACT.iter().find(|(name, ..)| *name == scenario).unwrap();
        // On tmpfs where there is one: key generation syncs.
        let root = [Path::new("/dev/shm"), Path::new("/tmp")].into_iter().find(|root| root.is_dir()).unwrap();
        let directory = tempfile::Builder::new().prefix("hsm-bridge-").tempdir_in(root).unwrap();
        let conf = (self.make)(directory.path(), *tokens);
        let output = Command::new(harness())
            .arg(scenario)
            .arg((self.module)())
            .arg(format!("{}={}", self.variable, conf.display()))
            .args([LABEL, PIN])
            .output()
            .expect("the harness starts");
        let stdout = String::from_utf8_lossy(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);

        let mut wrong = Vec::new();
        let mut known: Vec<&Difference> = self.differences.iter().filter(|row| row.scenario == scenario).collect();
        for line in stdout.lines().filter_map(|line| line.strip_prefix("FAILED ")) {
            let row = known.iter().position(|row| {
                line.strip_prefix(row.check).is_some_and(|why| why.starts_with(": ") && why.contains(row.says))
            });
            match row {
                Some(row) => drop(known.remove(row)),
                None => wrong.push(format!("FAILED {line}")),
            }
        }
        let gone = known.iter().map(|row| format!("no longer a difference: {} ({})", row.check, row.why));
        wrong.extend(gone);
        let passed = stdout.lines().filter(|line| line.starts_with("ok ")).count();
        let differences = self.differences.iter().filter(|row| row.scenario == scenario).count();
        assert!(wrong.is_empty(), "{}\n{stderr}", wrong.join("\n"));
        let expected = i32::from(differences > 0);
        assert_eq!(output.status.code(), Some(expected), "{}: {stdout}\n{stderr}", output.status);
        assert!(passed + differences >= *at_least, "only {passed} checks ran:\n{stdout}");
    }
}

fn target() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().to_owned()
}

/// `cargo test` builds examples beside the tests; `cargo test --test token_contract` does not.
fn harness() -> PathBuf {
    let path = target().join("examples/token_selftest");
    let built = std::fs::metadata(&path).and_then(|file| file.modified()).ok();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["src/token", "examples/token_selftest"];
    let sources = folders.iter().flat_map(|folder| std::fs::read_dir(root.join(folder)).unwrap());
    let newest = sources
        .map(|entry| entry.unwrap().path())
        .chain([root.join("examples/token_selftest.rs")])
        .map(|source| std::fs::metadata(source).and_then(|file| file.modified()).unwrap())
        .max();
    assert!(built >= newest, "{} is old: run `cargo build --example token_selftest`", path.display());
    path
}

/// A test for each scenario and token.
macro_rules! contract {
    ($($name:ident = $kind:expr;)+) => {
        $(mod $name {
            contract!(@ $kind;
                keys_live_and_die_as_told = "main";
                a_wrong_pin_is_tried_once = "wrong-pin";
                two_tokens_with_one_label_are_refused = "two-tokens";
                the_queue_is_fair_and_bounded = "queue";
                lost_sessions_and_a_lost_login_come_back = "logged-out";
                a_token_that_went_away_is_told_from_a_missing_key = "gone";
                an_officers_keys_are_seen_and_adopted = "officer";
                an_inventory_reads_all_and_lets_others_in = "inventory";
                short_ids_and_short_labels = "short-ids";
                several_tokens_live_side_by_side = "stores";
                a_new_pin_needs_no_restart = "pin";
            );
        })+
    };
    (@ $kind:expr; $($test:ident = $scenario:literal;)+) => {
        $(#[test]
        fn $test() {
            use super::*;
            match $kind.without.iter().find(|(scenario, _)| *scenario == $scenario) {
                None => $kind.keeps($scenario),
                Some((_, why)) => println!("not on this token: {why}"),
            }
        })+

        #[test]
        fn each_scenario_is_run() {
            assert_eq!([$($scenario),+].as_slice(), super::CONTRACT.iter().map(|(name, ..)| *name).collect::<Vec<_>>());
        }
    };
}

contract! {
    softhsm = SOFTHSM;
    kryoptic = KRYOPTIC;
    nss = NSS;
}
