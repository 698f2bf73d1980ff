//! `policy test` as operators run it: the built program, our own cases, and the files that the environment variable
//! HSM_BRIDGE_DECISION_CASES names (paths, `:` between them).

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::PathBuf;
use std::process::Command;

fn policy_test(files: &[PathBuf]) -> (String, Option<i32>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hsm-bridge"));
    let output = command.args(["policy", "test"]).args(files).env_remove("HSM_BRIDGE_CONFIG").output().unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.code())
}

#[test]
fn all_cases_pass() {
    let own = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/decisions")).unwrap();
    let mut files: Vec<PathBuf> = own.map(|entry| entry.unwrap().path()).collect();
    files.extend(std::env::var_os("HSM_BRIDGE_DECISION_CASES").iter().flat_map(std::env::split_paths));
    let (said, code) = policy_test(&files);
    assert_eq!(code, Some(0), "{said}");
    let (passed, rest) = said.trim_end().rsplit('\n').next().unwrap().split_once(" passed, ").unwrap();
    assert_eq!(rest, "0 failed", "{said}");
    assert!(passed.parse::<usize>().unwrap() >= 60, "{said}");
}

#[test]
fn a_failed_case_is_told_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let own =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/decisions/key-policies.json")).unwrap();
    let wrong = dir.path().join("wrong.json");
    std::fs::write(&wrong, own.replace(r#""decided_by": "anonymous""#, r#""decided_by": "grant""#)).unwrap();
    let missing = dir.path().join("missing.json");
    let (said, code) = policy_test(&[wrong, missing]);
    assert_eq!(code, Some(1));
    assert!(said.contains("key-30 an anonymous caller is refused whatever the policy says"), "{said}");
    assert!(
        said.contains(
            "  expected: deny (implicit), decided by grant\n  got:      deny (implicit), decided by anonymous"
        )
    );
    assert!(said.contains("missing.json: No such file"), "{said}");
    assert!(said.trim_end().ends_with(" passed, 2 failed"), "{said}");
}
