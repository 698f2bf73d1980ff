//! Whole exports of small logs, checked with nothing of what made them.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use aws_lc_rs::{digest, signature};
use serde_json::Value;

use super::*;
use crate::audit::record::tests::{event, settings};
use crate::audit::testing::SoftwareSigner;
use crate::audit::verify::note;
use crate::audit::verify::tree::{Frontier, Hash, node};
use crate::audit::{EventType, Journal, KeyUse, SignAudit};

const TRAIL: &str = "arn:aws:cloudtrail:eu-central-1:111122223333:trail/hsm-bridge";

fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

/// A log of one segment: names of events, `Intent` makes an intent, `Fail` a failure.
fn log(dir: &Path, names: &[&str]) -> Vec<Vec<u8>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (journal, _) = Journal::open(settings(dir)).unwrap();
        for (number, name) in names.iter().enumerate() {
            let kind = if *name == "Intent" { EventType::HsmBridgeIntent } else { EventType::AwsApiCall };
            let mut event = event(kind, name, &format!("request-{number}"));
            if *name == "Fail" {
                event.error_code = Some("AccessDenied".into());
                event.error_message = Some("=cmd|' /C calc'!A0".into());
                event.user_agent = Some("a|b=c\\d".into());
            }
            journal.append(event).await.unwrap();
        }
        journal.close();
    });
    lines(dir)
}

fn lines(dir: &Path) -> Vec<Vec<u8>> {
    let names = crate::audit::files::segments(&dir.join("journal"), false).unwrap();
    let read = |name| std::fs::read(dir.join("journal").join(name)).unwrap();
    let bytes: Vec<u8> = names.into_iter().flat_map(read).collect();
    bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect()
}

fn leaf(line: &[u8]) -> Hash {
    digest::digest(&digest::SHA256, &[&[0], line].concat()).as_ref().try_into().unwrap()
}

fn root(lines: &[Vec<u8>]) -> Hash {
    let mut tree = Frontier::default();
    lines.iter().for_each(|line| tree.push(leaf(line)));
    tree.root()
}

/// A checkpoint of the first `size` records.
fn checkpoint(dir: &Path, size: usize) {
    let text = note::body("hsm-bridge/111122223333/eu-central-1/hsm-bridge", size as u64, &root(&lines(dir)[..size]));
    let text = format!("{text}\n{}", note::signature_line("hsm-bridge/x", [1; 4], &[1; 64]));
    std::fs::create_dir_all(dir.join("checkpoints")).unwrap();
    std::fs::write(dir.join("checkpoints").join(format!("{size:020}")), text).unwrap();
}

struct Exported {
    made: Made,
    files: BTreeMap<String, Vec<u8>>,
    signer: std::sync::Arc<SoftwareSigner>,
}

/// Its RSA key takes long to make.
fn signer() -> std::sync::Arc<SoftwareSigner> {
    static SIGNER: std::sync::OnceLock<std::sync::Arc<SoftwareSigner>> = std::sync::OnceLock::new();
    SIGNER.get_or_init(SoftwareSigner::new).clone()
}

fn export(dir: &Path, request: &Request) -> Result<Exported, Error> {
    let signer = signer();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let out = dir.join("out");
    let _ = std::fs::remove_dir_all(&out);
    let job = Job {
        dir: dir.to_owned(),
        trail_arn: TRAIL.into(),
        account: "111122223333".into(),
        region: "eu-central-1".into(),
        key_prefix: Some("pre".into()),
        id: "7c31a487-6904-4b82-af00-74ca2b88f2cf".into(),
        now: 1_772_616_000_000_000,
        generated_by: "operator".into(),
        request_id: "r-1".into(),
        durable: lines(dir).len() as u64,
        clock: "steady".into(),
        out: Some(out.clone()),
        keep_free: 0.0,
        part_bytes: 1500,
        keys: signer.keys(),
        sign: &|message| runtime.block_on(signer.sign(KeyUse::Digest, message)),
        progress: &|_, _| {},
    };
    let made = make(&job, request)?;
    let mut files = BTreeMap::new();
    for name in &made.files {
        let stored = std::fs::read(out.join(name)).unwrap();
        let in_bucket = std::fs::read(dir.join("bucket").join(&made.prefix).join(name)).unwrap();
        assert_eq!(stored, in_bucket, "{name}");
        files.insert(name.clone(), stored);
    }
    assert!(!dir.join("exports.unfinished").exists());
    Ok(Exported { made, files, signer })
}

impl Exported {
    fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&self.files[name]).unwrap()
    }

    fn text(&self, name: &str) -> String {
        let mut text = String::new();
        flate2::read::GzDecoder::new(&self.files[name][..]).read_to_string(&mut text).unwrap();
        text
    }

    fn all(&self, suffix: &str) -> String {
        let names = self.made.files.iter().filter(|name| name.ends_with(suffix) && name.starts_with("result_"));
        names.map(|name| self.text(name)).collect()
    }

    /// As `aws cloudtrail verify-query-results --local-export-path` does it.
    fn signed(&self) -> bool {
        let sign = self.json("result_sign.json");
        let files = sign["files"].as_array().unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let good =
            files.iter().all(|file| sha256(&self.files[&text(&file["fileName"])]) == text(&file["fileHashValue"]));
        let message: Vec<String> = files.iter().map(|file| text(&file["fileHashValue"])).collect();
        let key = self.signer.current(KeyUse::Digest);
        assert_eq!(sign["publicKeyFingerprint"], key.fingerprint.as_str());
        // SubjectPublicKeyInfo of RSA 2048: 24 bytes before the PKCS#1 key.
        let key = signature::UnparsedPublicKey::new(&signature::RSA_PKCS1_2048_8192_SHA256, &key.spki[24..]);
        let signature = hex::decode(text(&sign["hashSignature"])).unwrap();
        good && key.verify(message.join(" ").as_bytes(), &signature).is_ok()
    }

    /// The root that proof.json and leaves.bin lead to, computed as docs/exports.md says.
    fn root(&self) -> Hash {
        let proof = self.json("proof.json");
        let size = proof["treeSize"].as_u64().unwrap();
        let first = proof["firstSeq"].as_u64().unwrap();
        let mut parts: Vec<(u64, u64, Hash)> = Vec::new();
        let mut push = |mut first: u64, mut count: u64, mut hash: Hash| {
            while let Some((at, many, left)) = parts.last().copied()
                && many == count
                && at % (2 * many) == 0
            {
                (first, count, hash) = (at, 2 * many, node(&left, &hash));
                parts.pop();
            }
            parts.push((first, count, hash));
        };
        let subtree = |value: &Value| {
            let hash: Hash = hex::decode(value["hash"].as_str().unwrap()).unwrap().try_into().unwrap();
            (value["first"].as_u64().unwrap(), value["count"].as_u64().unwrap(), hash)
        };
        for (first, count, hash) in proof["before"].as_array().unwrap().iter().map(subtree) {
            push(first, count, hash);
        }
        for (seq, leaf) in (first..size).zip(self.files["leaves.bin"].chunks(32)) {
            push(seq, 1, leaf.try_into().unwrap());
        }
        for (first, count, hash) in proof["after"].as_array().unwrap().iter().map(subtree) {
            push(first, count, hash);
        }
        assert_eq!(parts.last().map(|(first, count, _)| first + count), Some(size));
        let mut hashes = parts.into_iter().rev().map(|(_, _, hash)| hash);
        let last = hashes.next().unwrap();
        hashes.fold(last, |right, left| node(&left, &right))
    }
}

fn all_formats() -> Request {
    let formats = vec![Format::Csv, Format::Jsonl, Format::Ocsf, Format::Cef, Format::CloudTrail];
    Request { formats, ..Request::default() }
}

#[test]
fn a_whole_log() {
    let dir = tempfile::tempdir().unwrap();
    let log = log(dir.path(), &["Encrypt", "Intent", "CreateKey", "Fail", "Decrypt"]);
    checkpoint(dir.path(), log.len() - 1);
    let export = export(dir.path(), &all_formats()).unwrap();

    // Byte for byte, in the tree, signed.
    let expected: String = log.iter().map(|line| String::from_utf8(line.clone()).unwrap() + "\n").collect();
    assert_eq!(export.text("records.jsonl.gz"), expected);
    let leaves: Vec<u8> = log.iter().flat_map(|line| leaf(line)).collect();
    assert_eq!(export.files["leaves.bin"], leaves);
    assert_eq!(export.root(), root(&log[..log.len() - 1]));
    assert_eq!(export.json("proof.json")["unsigned"], 1);
    assert!(export.signed());

    // Every file is in the manifest, and the manifest is signed.
    let manifest = export.json("manifest.json");
    for file in manifest["files"].as_array().unwrap() {
        assert_eq!(file["sha256"], sha256(&export.files[file["name"].as_str().unwrap()]).as_str());
    }
    let outside = ["manifest.json", "result_sign.json", "SHA256SUMS"];
    assert_eq!(manifest["files"].as_array().unwrap().len() + outside.len(), export.files.len());
    assert_eq!(manifest["range"]["records"], log.len());
    assert_eq!(manifest["completeness"]["intents"], 1);
    let prefix = "pre/AWSLogs/111122223333/CloudTrail-Lake/Query/2026/03/04/7c31a487-6904-4b82-af00-74ca2b88f2cf/";
    assert_eq!(export.made.prefix, prefix);

    // Rows: one for each record but intents; split files have a header each.
    let rows = log.len() - 1;
    let csv = export.all(".csv.gz");
    assert!(export.made.files.contains(&"result_2.csv.gz".to_owned()));
    let first = csv.lines().next().unwrap();
    let headers = csv.lines().filter(|line| *line == first).count();
    assert_eq!(csv.lines().count() - headers, rows);
    assert!(csv.contains(",'=cmd|' /C calc'!A0,"), "{csv}");
    assert_eq!(export.all(".ocsf.jsonl.gz").lines().count(), rows);
    let cef = export.all(".cef.gz");
    assert_eq!(cef.lines().count(), rows);
    assert!(cef.contains(r"requestClientApplication=a|b\=c\\d"), "{cef}");
    let names = export.made.files.iter().filter(|name| name.ends_with(".cloudtrail.json.gz"));
    let records: Vec<Value> = names
        .flat_map(|name| {
            let file: Value = serde_json::from_str(&export.text(name)).unwrap();
            file["Records"].as_array().unwrap().clone()
        })
        .collect();
    assert_eq!(records.len(), rows);
}

/// Every cut of a log by time, with and without a filter: the proof leads to the signed root, and says how much it covers.
#[test]
fn every_range_leads_to_the_signed_root() {
    let dir = tempfile::tempdir().unwrap();
    let log = log(dir.path(), &["A", "B", "A", "C", "A", "D", "A"]);
    let times: Vec<i64> = log.iter().map(|line| record::Record::parse(line).unwrap().written()).collect();
    checkpoint(dir.path(), log.len());
    for from in 0..log.len() {
        for to in from + 1..=log.len() {
            let mut request = Request { from: Some(times[from]), to: times.get(to).copied(), ..Request::default() };
            if request.to == request.from {
                continue;
            }
            request.filter.event = (from % 2 == 0).then(|| "A".to_owned());
            let export = export(dir.path(), &request).unwrap();
            // The clock's steps may put neighbours into the range.
            let (Some(first), Some(last)) = (export.made.first_seq, export.made.last_seq) else { panic!("no range") };
            assert!(first <= from as u64 && last + 1 >= to as u64, "{first}..={last} for {from}..{to}");
            assert_eq!(export.root(), root(&log), "{from}..{to}");
            assert!(export.signed());
            let range = &log[first as usize..=last as usize];
            let leaves: Vec<u8> = range.iter().flat_map(|line| leaf(line)).collect();
            assert_eq!(export.files["leaves.bin"], leaves);
            let wanted = |line: &&Vec<u8>| {
                request.filter.event.is_none() || String::from_utf8_lossy(line).contains(r#""eventName":"A""#)
            };
            let expected = range.iter().filter(wanted).count();
            assert_eq!(export.text("records.jsonl.gz").lines().count(), expected);
            std::fs::remove_dir_all(dir.path().join("bucket")).unwrap();
        }
    }
}

#[test]
fn a_changed_log_is_not_exported() {
    for change in ["record", "root"] {
        let dir = tempfile::tempdir().unwrap();
        log(dir.path(), &["A", "B", "C"]);
        if change == "root" {
            checkpoint(dir.path(), 3);
        }
        let journal = dir.path().join("journal");
        let name = &crate::audit::files::segments(&journal, false).unwrap()[0];
        let text = std::fs::read_to_string(journal.join(name)).unwrap();
        let (from, to) = if change == "record" { ("request-0", "request-9") } else { ("SegmentStart", "SegmentStarT") };
        let text = text.replacen(from, to, 1);
        std::fs::write(journal.join(name), text).unwrap();
        let Err(Error::Damaged(_)) = export(dir.path(), &all_formats()) else { panic!("{change} was exported") };
        assert!(!dir.path().join("out").exists() && !dir.path().join("bucket").exists());
    }
}

#[test]
fn nothing_is_written_over_and_no_room_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    log(dir.path(), &["A"]);
    let first = export(dir.path(), &Request::default()).unwrap();
    // No checkpoint: nothing is proven, and that is said.
    assert_eq!((first.made.checkpoint_size, first.made.unsigned), (None, first.made.rows));
    assert!(first.signed());
    let signer = signer();
    let mut job = Job {
        dir: dir.path().to_owned(),
        trail_arn: TRAIL.into(),
        account: "111122223333".into(),
        region: "eu-central-1".into(),
        key_prefix: None,
        id: "x".into(),
        now: 0,
        generated_by: String::new(),
        request_id: String::new(),
        durable: 3,
        clock: String::new(),
        out: Some(dir.path().join("out")),
        keep_free: 0.0,
        part_bytes: PART_BYTES,
        keys: signer.keys(),
        sign: &|_| Err(SignError("away".into())),
        progress: &|_, _| {},
    };
    assert!(matches!(make(&job, &Request::default()), Err(Error::Exists(_))));
    job.out = None;
    assert!(matches!(make(&job, &Request::default()), Err(Error::Sign(_))));
    job.keep_free = 1.1;
    assert!(matches!(make(&job, &Request::default()), Err(Error::NoRoom)));
    assert!(!dir.path().join("exports.unfinished").exists());
}
