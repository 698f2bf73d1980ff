//! The token layer against SoftHSM: makes token directories and runs `examples/token_selftest.rs` in processes of their
//! own, since module state is per process. Needs Debian's softhsm2 and opensc.
#![allow(clippy::unwrap_used, reason = "a test file; clippy's own setting covers test functions only")]

use std::path::{Path, PathBuf};
use std::process::Command;

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
const LABEL: &str = "hsm-bridge-test";
const PIN: &str = "1234567";

/// A token directory of its own, on tmpfs where there is one: key generation syncs.
struct Directory {
    path: tempfile::TempDir,
}

impl Directory {
    fn with_tokens(count: usize) -> Directory {
        let root = [Path::new("/dev/shm"), Path::new("/tmp")].into_iter().find(|root| root.is_dir()).unwrap();
        let directory = Directory { path: tempfile::Builder::new().prefix("hsm-bridge-").tempdir_in(root).unwrap() };
        let tokens = directory.path.path().join("tokens");
        std::fs::create_dir(&tokens).unwrap();
        let conf =
            format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", tokens.display());
        std::fs::write(directory.conf(), conf).unwrap();
        for _ in 0..count {
            let output = Command::new("softhsm2-util")
                .env("SOFTHSM2_CONF", directory.conf())
                .args(["--init-token", "--free", "--label", LABEL, "--pin", PIN, "--so-pin", "12345678"])
                .output()
                .expect("softhsm2-util is installed (apt install softhsm2)");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        directory
    }

    fn conf(&self) -> PathBuf {
        self.path.path().join("softhsm2.conf")
    }

    /// Runs a scenario; each of its lines must say `ok`, and there must be `at_least` of them.
    fn run(&self, scenario: &str, at_least: usize) {
        let output = Command::new(harness())
            .args([scenario, MODULE])
            .arg(self.conf())
            .args([LABEL, PIN])
            .output()
            .expect("the harness starts");
        let stdout = String::from_utf8_lossy(&output.stdout);
        let failed: Vec<&str> = stdout.lines().filter(|line| line.starts_with("FAILED")).collect();
        let passed = stdout.lines().filter(|line| line.starts_with("ok ")).count();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(failed.is_empty(), "{}\n{stderr}", failed.join("\n"));
        assert!(output.status.success(), "{}: {stdout}\n{stderr}", output.status);
        assert!(passed >= at_least, "only {passed} checks ran:\n{stdout}");
    }
}

/// `cargo test` builds examples beside the tests; `cargo test --test token_softhsm` does not.
fn harness() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().and_then(Path::parent).unwrap().join("examples/token_selftest");
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

#[test]
fn keys_live_and_die_as_told() {
    Directory::with_tokens(1).run("main", 45);
}

#[test]
fn a_wrong_pin_is_tried_once() {
    Directory::with_tokens(1).run("wrong-pin", 3);
}

#[test]
fn two_tokens_with_one_label_are_refused() {
    Directory::with_tokens(2).run("two-tokens", 3);
}

#[test]
fn the_queue_is_fair_and_bounded() {
    Directory::with_tokens(1).run("queue", 4);
}

#[test]
fn lost_sessions_and_a_lost_login_come_back() {
    Directory::with_tokens(1).run("logged-out", 4);
}

#[test]
fn a_token_that_went_away_is_told_from_a_missing_key() {
    Directory::with_tokens(1).run("gone", 1);
}

#[test]
fn an_officers_keys_are_seen_and_adopted() {
    Directory::with_tokens(1).run("officer", 20);
}

#[test]
fn an_inventory_reads_all_and_lets_others_in() {
    Directory::with_tokens(1).run("inventory", 3);
}

#[test]
fn short_ids_and_short_labels() {
    Directory::with_tokens(1).run("short-ids", 6);
}

#[test]
fn several_tokens_live_side_by_side() {
    Directory::with_tokens(2).run("stores", 14);
}

#[test]
fn a_new_pin_needs_no_restart() {
    Directory::with_tokens(1).run("pin", 6);
}
