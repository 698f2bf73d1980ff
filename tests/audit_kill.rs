//! kill -9 at any moment: what was acknowledged is in the log, and the log verifies after the next start.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hsm_bridge::audit::verify;

const ROUNDS: u32 = 30;

#[test]
fn acknowledged_records_survive_kill() {
    let writer = example("audit_writer");
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged: HashMap<u64, String> = HashMap::new();
    for round in 0..ROUNDS {
        let mut child = Command::new(&writer).arg(dir.path()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let opened = lines.next().expect("the log opens after each kill").unwrap();
        assert!(opened.starts_with("open "), "{opened}");
        // Killed after some acknowledgements; what it said until then is still in the pipe.
        let until = round * 7 % 90;
        for line in lines.by_ref().take(until as usize) {
            take(&line.unwrap(), &mut acknowledged);
        }
        child.kill().unwrap();
        for line in lines {
            take(&line.unwrap(), &mut acknowledged);
        }
        child.wait().unwrap();
    }
    // The last kill's tail is repaired by one more start.
    let mut child = Command::new(&writer).arg(dir.path()).stdout(Stdio::piped()).spawn().unwrap();
    BufReader::new(child.stdout.take().unwrap()).lines().next().unwrap().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();

    let report = verify::directory(dir.path(), &verify::Options::default(), &mut |_| {});
    let torn = report.verdict == verify::Verdict::Truncated;
    assert!(report.verdict == verify::Verdict::Ok || torn, "{report}");
    let records = records(dir.path());
    assert!(acknowledged.len() > 300, "{}", acknowledged.len());
    for (seq, request_id) in &acknowledged {
        assert_eq!(records.get(seq), Some(request_id), "record {seq}");
    }
}

fn take(line: &str, acknowledged: &mut HashMap<u64, String>) {
    let (seq, request_id) = line.split_once(' ').unwrap();
    let before = acknowledged.insert(seq.parse().unwrap(), request_id.to_string());
    assert_eq!(before, None, "seq {seq} was given twice");
}

/// Request ids by seq, read without our code.
fn records(dir: &Path) -> HashMap<u64, String> {
    let mut records = HashMap::new();
    for entry in std::fs::read_dir(dir.join("journal")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_symlink() || path.extension().is_none_or(|extension| extension != "jsonl") {
            continue;
        }
        let text = std::fs::read_to_string(path).unwrap();
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            let seq = record["additionalEventData"]["audit"]["seq"].as_u64().unwrap();
            if let Some(request_id) = record["requestID"].as_str() {
                records.insert(seq, request_id.to_string());
            }
        }
    }
    records
}

/// `cargo test --test audit_kill` alone does not build examples.
fn example(name: &str) -> PathBuf {
    let profile = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_path_buf();
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--example", name]).current_dir(env!("CARGO_MANIFEST_DIR"));
    if profile.ends_with("release") {
        build.arg("--release");
    }
    assert!(build.env("CARGO_TARGET_DIR", profile.parent().unwrap()).status().unwrap().success());
    profile.join("examples").join(name)
}
